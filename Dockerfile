# One image for both roles: `federation signer ...`, `federation controller ...`.
#
# The tag follows Python's and Debian's security fixes, so a build today is not the build of tomorrow. For a reproducible
# one, pin what you have reviewed by digest: --build-arg BASE=python:3.13-slim-bookworm@sha256:... There is no digest here, because
# one that is not renewed keeps old vulnerabilities. Everything above the base is pinned by requirements.lock, with hashes.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN ["python", "-m", "venv", "/opt/federation"]
# The lock first: a change of the hub's own code does not fetch anything again. Wheels only: nothing fetched is executed
# while the image is built.
COPY requirements.lock ./
RUN ["/opt/federation/bin/python", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", \
     "--require-hashes", "--only-binary=:all:", "--requirement=requirements.lock"]
COPY pyproject.toml README.md LICENSE ./
COPY federation ./federation
RUN ["/opt/federation/bin/python", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", \
     "--no-build-isolation", "--no-deps", "--no-index", "."]
# Installers do not belong where a key is mounted.
RUN ["/opt/federation/bin/python", "-m", "pip", "uninstall", "--yes", "setuptools", "pip"]

FROM ${BASE}
# Nor in the base: Python's own installer, and the copy of it that Python brings along.
RUN ["python", "-m", "pip", "uninstall", "--yes", "--disable-pip-version-check", "--root-user-action=ignore", "setuptools", "wheel", "pip"]
RUN ["python", "-c", "import ensurepip, shutil; shutil.rmtree(ensurepip.__path__[0])"]
# What a release was made from: `make image` and `make release` fill these in.
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="federation-hub" \
      org.opencontainers.image.description="One trust for many Istio clusters: signing, bundle publication, proof and rotation from one hub." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /opt/federation /opt/federation
# `federation` in the path. Logs as they are written; no bytecode into a file system that is read-only.
ENV PATH=/opt/federation/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Numeric, so that runAsNonRoot can be checked before the container starts. It owns nothing in the image.
USER 65532:65532
WORKDIR /tmp
EXPOSE 15443 15444 15445 8080 8081
# A probe of the cluster knows which role it asks and what to do about it; a check of the image's own does not.
HEALTHCHECK NONE
ENTRYPOINT ["/opt/federation/bin/python", "-m", "federation"]
CMD ["--help"]
