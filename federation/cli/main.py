"""The ``federation`` command: finds the verb, runs it, and turns errors into words and exit codes.

A verb is a module of this package with ``add_parser(subparsers)`` and ``run(args) -> int``. Only the one that is
asked for is imported, and each imports what it needs when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Final

from federation.cli.parser import Parser
from federation.core.errors import ConfigurationError, FederationError

VERBS: Final = (
    "hub",
    "signer",
    "controller",
    "clusters",
    "authority",
    "status",
    "verify",
    "bundle",
    "trust",
    "rotate",
    "pki",
    "context",
    "completion",
    "demo",
)

COMPLETE: Final = "__complete"
"""What the scripts of ``federation completion`` ask."""

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

EXIT_CODES: Final = (
    "exit codes: 0 done, and where a question was asked, yes; 1 failed, or no; "
    "2 what was written on the command line or in the configuration cannot be used"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [COMPLETE]:
        return _complete(given[1:])
    args = build_parser(given[:1]).parse_args(given)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()  # the interpreter would complain about the same pipe once more
        return EXIT_FAILED
    except (FederationError, BaseExceptionGroup) as error:
        return explain(error)
    return code


def _complete(words: Sequence[str]) -> int:
    from federation.cli.completion import answer

    print("\n".join(answer(words)))
    return 0


def build_parser(wanted: Sequence[str] = ()) -> Parser:
    """The parser with the wanted verb, or with all of them where that is not one."""
    parser = Parser(
        prog="federation",
        description="One trust for many Istio clusters: signing, bundle publication, proof and status from one hub.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action=_ShowVersion, help="show program's version number and exit")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in [name for name in VERBS if name in wanted] or VERBS:
        import_module(f"federation.cli.{verb}").add_parser(verbs)
    return parser


def explain(error: BaseException) -> int:
    """Say what is wrong, in the error's own words, and give the exit code. Raises what is not the hub's own."""
    leaves = list(_leaves(error))
    unknown = next((leaf for leaf in leaves if not isinstance(leaf, FederationError)), None)
    if unknown is not None:
        raise unknown
    for leaf in leaves:
        print(f"federation: {leaf.diagnostics()}", file=sys.stderr)  # type: ignore[attr-defined]
    return EXIT_USAGE if any(isinstance(leaf, ConfigurationError) for leaf in leaves) else EXIT_FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


class _ShowVersion(argparse.Action):
    """Reads the version once it is asked for: a package's metadata takes longer than all else before a verb runs."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"federation-hub {_version()}")
        parser.exit()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("federation-hub")
    except PackageNotFoundError:
        return "(not installed)"
