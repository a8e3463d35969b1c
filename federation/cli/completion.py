"""``federation completion``: a script for the shell, which asks this command what may stand where the cursor is.

The script runs ``federation __complete WORDS``; the last word is the one to complete. Each line of the answer is a word
and what it means, with a tab between them; the line ``:files`` has the shell complete the name of a file.
"""

from __future__ import annotations

import argparse
import contextlib
import tomllib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from federation.core.errors import FederationError

FILES: Final = ":files"
MOST_MEANING: Final = 80  # characters of what a word means: a line of a menu

_BASH: Final = """\
# bash completion for federation; have it read by:  source <(federation completion bash)
_federation() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == ":files" ]]; then
            compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        else
            COMPREPLY+=("${line%%$'\\t'*}")
        fi
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _federation federation
"""

_ZSH: Final = """\
#compdef federation
# zsh completion for federation; save it as _federation in a directory of fpath, or have it read, after compinit, by:
#   source <(federation completion zsh)
_federation() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            :files) _files ;;
            ?*) found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}") ;;
        esac
    done
    (( $#found )) && _describe -t federation federation found
}
if [[ $funcstack[1] == _federation ]]; then
    _federation "$@"
else
    compdef _federation federation
fi
"""

_FISH: Final = """\
# fish completion for federation; save it as ~/.config/fish/completions/federation.fish
function __federation_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    for line in ($before[1] __complete $before[2..-1] "$current" 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c federation -f -a '(__federation_complete)'
"""

SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its argument."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes this command in bash, zsh or fish",
        description="Prints a script that has the shell complete verbs, options, files, names of contexts, and names "
        "of clusters out of the configuration (--config, else clusters.toml here). Nothing is asked of a hub for it. "
        "The script says in its first lines how to have it read.",
    )
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="for which shell")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print(SCRIPTS[args.shell], end="")
    return 0


def answer(words: Sequence[str]) -> list[str]:
    """The lines that answer a shell."""
    from federation.cli.main import build_parser

    found = build_parser(words[:1]).completions(words, partial(_names, words))
    lines = [f"{word}\t{_short(meaning)}" for word, meaning in found.words]
    return [*lines, FILES] if found.files else lines


def _short(meaning: str) -> str:
    plain = " ".join(meaning.split())
    return plain if len(plain) <= MOST_MEANING else f"{plain[: MOST_MEANING - 3].rstrip()}..."


def _names(words: Sequence[str], kind: str) -> Iterable[str]:
    """The names of that kind that are found in files at once; none where a file cannot be used."""
    from federation.cli.context_file import Contexts

    if kind == "contexts":
        with contextlib.suppress(FederationError):
            return list(Contexts.load().by_name)
        return []
    return _clusters(_config_file(words))


def _config_file(words: Sequence[str]) -> Path:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--config" and following:
            return Path(following)
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
    return Path("clusters.toml")


def _clusters(file: Path) -> list[str]:
    """The clusters' names, whatever else is in the file: one that is being edited has mistakes."""
    from federation.cli.pinning import read_bounded
    from federation.core.config.load import MAX_BYTES

    try:
        found = tomllib.loads(read_bounded(file, MAX_BYTES).decode("utf-8")).get("clusters", [])
    except (FederationError, ValueError):
        return []
    entries = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return [name for each in entries if isinstance(name := each.get("name"), str) and name.isprintable()]
