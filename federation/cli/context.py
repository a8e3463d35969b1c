"""``federation context``: which hubs there are to ask, and which is asked where a command does not name one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.cli.options import completes
from federation.core.errors import ConfigurationError, Mistake

if TYPE_CHECKING:
    from federation.cli.context_file import HubContext

COLUMNS: Final = ("current", "name", "url", "through", "token")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb, its actions and their options."""
    from federation.cli.tables import add_table_options

    parser = subparsers.add_parser(
        "context",
        help="name hubs, so that commands find them: list, show, use, add, remove",
        description="A context says where a hub's status API is: its URL, its CA, and the file that holds its token, "
        "or through which cluster's API server it is reached where nothing is exposed. They are in "
        "federation/contexts.toml below XDG_CONFIG_HOME (default: ~/.config). --hub or FEDERATION_CONTEXT name one; "
        "else the current one is asked. No token is in that file.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="show every context", description="Shows every context, the current one marked with *."
    )
    add_table_options(listing, COLUMNS)
    listing.set_defaults(run=_list)
    showing = actions.add_parser(
        "show",
        help="show one context",
        description="Shows one context: all that it says, as it is in the file. No token is printed.",
    )
    completes(
        showing.add_argument("name", nargs="?", metavar="NAME", help="which (default: the current one)"),
        "contexts",
    )
    showing.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    showing.set_defaults(run=_show)
    using = actions.add_parser(
        "use",
        help="make one the current context",
        description="Makes that context the one that is asked where a command names no hub.",
    )
    completes(using.add_argument("name", metavar="NAME", help="which"), "contexts")
    using.set_defaults(run=_use)
    _add_adding(actions)
    removing = actions.add_parser(
        "remove",
        help="take a context out of the file",
        description="Takes that context out of the file. The files that it names stay.",
    )
    completes(removing.add_argument("name", metavar="NAME", help="which"), "contexts")
    removing.set_defaults(run=_remove)


def _add_adding(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "add",
        help="add a context",
        description="Adds a context; nothing is asked of the hub. With --kubeconfig or --kube-context the URL's host "
        "is a Service, NAME.NAMESPACE.svc: a port-forward through that API server leads to a ready pod behind it, and "
        "TLS and the token are for the hub. The first context becomes the current one.",
    )
    parser.add_argument("name", metavar="NAME", help="what to call the hub")
    parser.add_argument("--url", required=True, help="its status API, such as https://HOST:8080")
    for option, meaning in (
        ("--token-file", "the file that holds its token, mode 0600; read at each question, never copied"),
        ("--ca-file", "CA certificates to verify an https URL by (default: the system's)"),
    ):
        parser.add_argument(option, type=Path, metavar="FILE", help=meaning)
    parser.add_argument(
        "--server-name",
        default="",
        metavar="NAME",
        help="the name in its certificate (default: the URL's host)",
    )
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="reach it through this kubeconfig's API server (default with --kube-context: KUBECONFIG, or "
        "~/.kube/config)",
    )
    parser.add_argument(
        "--kube-context",
        default="",
        metavar="NAME",
        help="the context in that kubeconfig (default: its current one)",
    )
    parser.add_argument("--use", action="store_true", help="make it the current context")
    parser.add_argument("--replace", action="store_true", help="replace the context of that name")
    parser.set_defaults(run=_add)


def _list(args: argparse.Namespace) -> int:
    from federation.cli.context_file import Contexts
    from federation.cli.tables import Rows

    contexts = Contexts.load()
    rows = Rows(
        COLUMNS,
        [_cells(name, context, contexts.current) for name, context in contexts.by_name.items()],
        [_document(name, context, contexts.current) for name, context in contexts.by_name.items()],
    )
    rows.chosen(args).print(args, key="contexts", empty=f"no context is in {contexts.path}")
    return 0


def _cells(name: str, context: HubContext, current: str) -> tuple[str, ...]:
    through = context.kube_context or context.kubeconfig
    return ("*" if name == current else "", name, context.url, through or "-", context.token_file or "-")


def _document(name: str, context: HubContext, current: str) -> dict[str, object]:
    import msgspec

    said: dict[str, object] = msgspec.to_builtins(context)
    return {"name": name, "current": name == current} | said


def _show(args: argparse.Namespace) -> int:
    import json

    from federation.cli.context_file import Contexts

    contexts = Contexts.load()
    name = args.name or contexts.current
    if not name:
        raise _mistake(contexts.path, "none is the current context", "name one, or choose it with `use`")
    document = _document(name, contexts.named(name), contexts.current)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        width = max(map(len, document))
        for key, value in document.items():
            shown = ("yes" if value else "no") if isinstance(value, bool) else value
            print(f"{key:<{width}}  {shown}")
    return 0


def _use(args: argparse.Namespace) -> int:
    from federation.cli.context_file import Contexts

    contexts = Contexts.load()
    found = contexts.named(args.name)
    contexts.current = args.name
    contexts.save()
    print(f"commands ask {args.name} from now on: {found.url}")
    return 0


def _add(args: argparse.Namespace) -> int:
    from federation.cli.administrator import default_kubeconfig
    from federation.cli.context_file import Contexts, HubContext, check_token_file

    contexts = Contexts.load()
    if args.name in contexts.by_name and not args.replace:
        raise _mistake(
            contexts.path, f"there is a context {args.name}", "choose another name, or add --replace"
        )
    kubeconfig = args.kubeconfig or (default_kubeconfig() if args.kube_context else None)
    context = HubContext(
        url=args.url.rstrip("/"),
        token_file=str(args.token_file.absolute()) if args.token_file else "",
        ca_file=str(args.ca_file.absolute()) if args.ca_file else "",
        server_name=args.server_name,
        kubeconfig=str(kubeconfig.absolute()) if kubeconfig else "",
        kube_context=args.kube_context,
    )
    if context.token_file:
        check_token_file(Path(context.token_file))
    contexts.put(args.name, context)
    if args.use:
        contexts.current = args.name
    contexts.save()
    how = "is the current one" if contexts.current == args.name else f"is asked with --hub {args.name}"
    print(f"{args.name} is in {contexts.path}, and {how}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from federation.cli.context_file import Contexts

    contexts = Contexts.load()
    was_current = contexts.current == args.name
    contexts.remove(args.name)
    contexts.save()
    print(f"{args.name} is out of {contexts.path}" + ("; none is the current one now" if was_current else ""))
    return 0


def _mistake(path: Path, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Mistake(str(path), "", problem, remedy)])
