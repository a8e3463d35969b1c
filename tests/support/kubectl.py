"""A stand-in for kubectl where none is installed: of its verbs and of Go's templates what the hub's scripts use.

``python -m tests.support.kubectl --kubeconfig FILE ...``, against any API server. The real one has run the same scripts
on real API servers (docs/compatibility.md).
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECRETS = "/api/v1/namespaces/{namespace}/secrets"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{namespace}/deployments"


class Api:
    """The server of a kubeconfig with a client certificate."""

    def __init__(self, file: str) -> None:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.server = cluster["server"]
        self.tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self.tls.load_cert_chain(pair.name)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind, "Accept": "application/json"}
        request = urllib.request.Request(self.server + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, context=self.tls, timeout=60) as answer:
            return json.loads(answer.read())


def evaluate(template: str, dot: Any) -> str:
    """Go's text/template, as far as the scripts go: with, range, index, base64decode."""
    tokens = [t for t in re.split(r"(\{\{.*?\}\})", template, flags=re.DOTALL) if t]
    return "".join(_block(iter(tokens), [dot, {}]))


def _block(tokens: Iterator[str], scope: list[Any]) -> list[str]:
    out: list[str] = []
    for token in tokens:
        if not token.startswith("{{"):
            out.append(token)
            continue
        words = token[2:-2].strip()
        if words == "end":
            return out
        if words.startswith(("with ", "range ")):
            body = _until_end(tokens)
            out += _control(words, body, scope)
        else:
            out.append(str(_value(words, scope)))
    return out


def _until_end(tokens: Iterator[str]) -> list[str]:
    body: list[str] = []
    depth = 1
    for token in tokens:
        words = token[2:-2].strip() if token.startswith("{{") else ""
        depth += words.startswith(("with ", "range ")) - (words == "end")
        if not depth:
            return body
        body.append(token)
    raise ValueError("no end")


def _control(words: str, body: list[str], scope: list[Any]) -> list[str]:
    verb, _, rest = words.partition(" ")
    if verb == "with":
        found = _value(rest, scope)
        return _block(iter(body), [found, scope[1]]) if found else []
    names, _, expression = rest.rpartition(" := ")
    found = _value(expression or rest, scope) or {}
    key = names.split(",")[0].strip()
    return [
        text for name in sorted(found) for text in _block(iter(body), [found[name], {**scope[1], key: name}])
    ]


def _value(words: str, scope: list[Any]) -> Any:
    words, *filters = (part.strip() for part in words.split("|"))
    if words.startswith("index "):
        _, place, key = words.split(maxsplit=2)
        found: Any = (_value(place, scope) or {}).get(json.loads(key), "")
    elif words.startswith("$"):
        found = scope[1][words]
    else:
        found = scope[0]
        for name in filter(None, words.split(".")):
            found = (found or {}).get(name)
    for name in filters:
        assert name == "base64decode", name
        found = base64.b64decode(found).decode()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="kubectl")
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("-n", dest="namespace", default="default")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--ignore-not-found", action="store_true")
    parser.add_argument("--type", dest="kind")
    parser.add_argument("--timeout", default="60s")
    for flag in ("-o", "-p", "-f", "-l"):
        parser.add_argument(flag)
    args = parser.parse_intermixed_args()
    try:
        return run(Api(args.kubeconfig), args)
    except urllib.error.HTTPError as error:
        if error.code == 404 and args.ignore_not_found:
            return 0
        print(f"Error from server: {error.code} {error.read()[:500]!r}", file=sys.stderr)
        return 1


def run(api: Api, args: argparse.Namespace) -> int:
    secrets = SECRETS.format(namespace=args.namespace)
    match args.words:
        case ["get", "secret", name]:
            found = api.ask("GET", f"{secrets}/{name}")
            sys.stdout.write(
                f"secret/{name}\n" if args.o == "name" else evaluate(args.o.partition("=")[2], found)
            )
        case ["patch", "secret", name]:
            assert args.kind == "merge"
            api.ask("PATCH", f"{secrets}/{name}", json.loads(args.p), "application/merge-patch+json")
        case ["delete", "secret", name]:
            api.ask("DELETE", f"{secrets}/{name}")
        case ["create"]:
            made = json.loads(sys.stdin.read())
            api.ask("POST", SECRETS.format(namespace=made["metadata"]["namespace"]), made)
        case ["rollout", "restart", "deployment"]:
            stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time_ns())}
            change = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
            for found in _selected(api, args):
                path = f"{DEPLOYMENTS.format(namespace=args.namespace)}/{found['metadata']['name']}"
                api.ask("PATCH", path, change, "application/merge-patch+json")
        case ["rollout", "status", "deployment"]:
            end = time.monotonic() + float(args.timeout.rstrip("s"))
            while not all(_is_settled(found) for found in _selected(api, args)):
                if time.monotonic() > end:
                    return 1
                time.sleep(0.1)
        case words:
            print(f"not offered: {words}", file=sys.stderr)
            return 2
    return 0


def _selected(api: Api, args: argparse.Namespace) -> list[Any]:
    path = f"{DEPLOYMENTS.format(namespace=args.namespace)}?labelSelector={args.l}"
    items: list[Any] = api.ask("GET", path)["items"]
    return items


def _is_settled(deployment: Any) -> bool:
    status = deployment.get("status", {})
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and status.get("readyReplicas", 0) == status.get("updatedReplicas") == deployment["spec"]["replicas"]
    )


if __name__ == "__main__":
    sys.exit(main())
