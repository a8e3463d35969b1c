# Every verb works from a bare clone: the first one that needs it makes .venv from the lock files, hashes checked.
# Only Python 3.11 or later, git and make have to be there.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV   := .venv
BIN    := $(VENV)/bin
DOCS_VENV := .venv-docs
ARGS   ?=

# What `make quick` tests: the core, and of each way and of status what is quick and says most; not what it leaves out.
QUICK := tests/core tests/status tests/test_project.py tests/test_dependencies.py \
  tests/cli/test_main.py tests/cli/test_readme.py \
  tests/runtime/test_config_source.py tests/runtime/test_logs.py tests/state/test_files.py \
  tests/signer/test_issuing.py tests/signer/test_local_authority.py tests/signer/test_directives.py tests/signer/test_parts.py \
  tests/signer/test_tokens.py tests/conformance/test_csr.py tests/conformance/test_istio_ca_service.py \
  tests/authorities/test_circuit.py tests/authorities/test_fair_limiter.py tests/authorities/test_fair_queue.py \
  tests/controller/test_generations.py tests/controller/test_handshake.py tests/controller/test_matrix.py \
  tests/controller/test_publication.py tests/controller/test_sources.py
NOT_QUICK := tests/core/pki/test_requests_hostile.py tests/core/trust/rotation/test_mutations.py \
  tests/core/trust/rotation/test_state_machine.py tests/status/test_page_browser.py

.PHONY: demo test quick lint types contracts check bench bench-scale bench-soak attack docs image version release clean venv

venv: $(VENV)/.test

$(VENV)/.run: requirements.lock pyproject.toml federation_sandbox/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name it with make PYTHON=..." >&2; exit 1; }
	@echo "making $(VENV) from requirements.lock" >&2
	@$(PYTHON) -m venv $(VENV) >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e . -e ./federation_sandbox >&2
	@touch $@

$(VENV)/.test: requirements-test.lock $(VENV)/.run
	@echo "adding what tests and checks need from requirements-test.lock" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.lock >&2
	@touch $@

demo: $(VENV)/.run
	@$(BIN)/federation demo $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# The loop while coding. The same examples each time, and none remembered from the last run: what fails here fails again.
quick: lint types
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile quick \
	  $(QUICK) $(addprefix --ignore=,$(NOT_QUICK)) $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

contracts: $(VENV)/.test
	$(BIN)/lint-imports --no-cache

check: lint types contracts test

bench: $(VENV)/.test
	$(BIN)/python -m tests.bench $(ARGS)

bench-scale: $(VENV)/.test
	@$(BIN)/python -m tests.bench.scale $(ARGS)

bench-soak: $(VENV)/.test
	@$(BIN)/python -m tests.bench.soak $(ARGS)

attack: $(VENV)/.test
	@$(BIN)/python -m tests.attack $(ARGS)

# The site, below build/site. Its packages are in an environment of their own; what does not resolve ends it.
$(DOCS_VENV)/.docs: requirements-docs.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name it with make PYTHON=..." >&2; exit 1; }
	@echo "making $(DOCS_VENV) from requirements-docs.lock" >&2
	@$(PYTHON) -m venv $(DOCS_VENV) >&2
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock >&2
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e . >&2
	@touch $@

docs: $(DOCS_VENV)/.docs
	@$(DOCS_VENV)/bin/python -m tests.reference_pages
	@$(DOCS_VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -c docs -b html . build/site $(ARGS)
	@echo "build/site/docs/index.html"

# With Docker, Podman or Buildah. The tests carry out the Dockerfile's steps without one.
image: $(VENV)/.test
	@$(BIN)/python -m release --image $(or $(TAG),federation-hub:dev)

# The version into every file that names it, and what is unreleased into a section of the change log.
version: $(VENV)/.test
	@$(BIN)/python -m release --prepare $(VERSION)

# Every file of a release in dist/VERSION, from the commit; nothing is published.
release: $(VENV)/.test
	@$(BIN)/python -m release $(VERSION) $(ARGS)

clean:
	rm -rf $(DOCS_VENV) $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
