"""The objects of ``manifests/member`` as the hub's package carries them, for ``federation clusters add``.

``python -m tests.manifests.member_data`` writes them; a test compares. The manifests are the source: what kubectl
applies and what the command applies are the same text.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.manifests.tree import MANIFESTS, ROOT

PACKAGED = ROOT / "federation" / "clusters"
FILES = {"member.yaml": "member", "member-trust-bundle.yaml": "member/cluster-trust-bundle"}
"""The file in the package, and the tree whose resources it holds in their order."""


def joined(tree: str) -> str:
    """The resources of a tree as one YAML stream."""
    directory: Path = MANIFESTS / tree
    names = yaml.safe_load((directory / "kustomization.yaml").read_text("utf-8"))["resources"]
    head = f"# From manifests/{tree} by `python -m tests.manifests.member_data`: change it there.\n"
    return head + "---\n".join((directory / name).read_text("utf-8") for name in names)


if __name__ == "__main__":
    for file, tree in FILES.items():
        (PACKAGED / file).write_text(joined(tree), "utf-8")
