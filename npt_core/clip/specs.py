"""The operator's words for a backbone: `demo`, `ARCH/PRETRAINED`, `hf-hub:ORG/NAME`, `local:NAME=ARCH@FILE`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from npt_core.errors import UnknownBackboneError

BackboneKind = Literal["demo", "open_clip", "hf-hub", "local"]

ACCEPTED = "`demo`, `ARCH/PRETRAINED` of open_clip, `hf-hub:ORG/NAME` or `local:NAME=ARCH@/path/to/file`"
_LOCAL = re.compile(r"(?P<name>[^=@]+)=(?P<arch>[^@]+)@(?P<path>.+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class BackboneSpec:
    """Which weights, as the operator named them.

    Attributes:
        name: What users see and pick by; it never holds a path of the machine.
        kind: Where the weights come from.
        arch: open_clip architecture, None where the weights bring their own.
        weights: open_clip tag, repository on the hub, or path of a local file; None for `demo`.
    """

    name: str
    kind: BackboneKind
    arch: str | None = None
    weights: str | None = None


def parse_backbone(entry: str) -> BackboneSpec:
    """Read one entry of the operator's list of backbones.

    Nothing is looked up and nothing is downloaded: `load_backbone` says whether the weights exist.

    Args:
        entry: One of the four forms above.

    Raises:
        UnknownBackboneError: The entry has none of the four forms.
    """
    text = entry.strip()
    if text == "demo":
        return BackboneSpec("demo", "demo")
    if text.startswith("hf-hub:"):
        repository = text.removeprefix("hf-hub:")
        if not _HUB.fullmatch(repository):
            raise _unreadable(entry, "after `hf-hub:` it needs ORG/NAME")
        return BackboneSpec(text, "hf-hub", weights=repository)
    if text.startswith("local:"):
        match = _LOCAL.fullmatch(text.removeprefix("local:"))
        if match is None:
            raise _unreadable(entry, "after `local:` it needs NAME=ARCH@FILE")
        name, arch, path = (match[key].strip() for key in ("name", "arch", "path"))
        if not _NAME.fullmatch(name):
            raise _unreadable(entry, f"the name {name!r} may hold letters, digits and ._+- only, 100 at most")
        return BackboneSpec(name, "local", arch.replace("/", "-"), path)
    arch, _, tag = text.rpartition("/")
    if not arch or not tag:
        raise _unreadable(entry, "it has no `/` between architecture and weights")
    arch = arch.replace("/", "-")  # "ViT-B/16" is how papers write ViT-B-16
    return BackboneSpec(f"{arch}/{tag}", "open_clip", arch, tag)


def close_matches(word: str, known: list[str], n: int = 5) -> list[str]:
    """The known words most like `word`, best first, upper and lower case alike."""
    folded = {k.casefold(): k for k in known}
    return [folded[m] for m in difflib.get_close_matches(word.casefold(), list(folded), n=n, cutoff=0.4)]


def _unreadable(entry: str, reason: str) -> UnknownBackboneError:
    return UnknownBackboneError(f"Backbone {entry!r} cannot be read: {reason}. Accepted: {ACCEPTED}.")
