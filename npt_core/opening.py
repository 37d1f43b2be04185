"""From what a person has at hand to what the library works with: paths, names of backbones, saved classifiers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npt_core.artefact import MANIFEST_FILE
from npt_core.errors import ArtefactError, UnknownBackboneError

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset

DEFAULT_BACKBONE = "demo"
DEMO_NOTE = (
    "No backbone was named, so this is the demo one. It knows shapes, digits and letters and no photographs; for those "
    'name another, for instance backbone="ViT-B-16/laion2b_s34b_b88k".'
)
PUBLISHED = ("demo", "open_clip")
"""Kinds of backbones that a file's own word is enough to load: what else it names, its reader has to name too."""


@contextlib.contextmanager
def opened_dataset(source: Dataset | Path | str) -> Iterator[Dataset]:
    """The data set itself, which stays open; or that of a folder or zip, which is closed when the block ends.

    Raises:
        DatasetError, ArchiveError: As `Dataset.open`.
    """
    from npt_core.data.dataset import Dataset

    if isinstance(source, Dataset):
        yield source
        return
    with Dataset.open(source) as dataset:
        yield dataset


def backbone_to_tune(
    given: Backbone | str | None, named: str | None, precision: str, parent: Backbone | None
) -> tuple[Backbone, list[str]]:
    """The backbone to tune on: the one that was given, else the parent's, else the named one, else the demo.

    Args:
        given: Loaded, or the words of `load_backbone` for one.
        named: `TuneConfig.backbone`.
        precision: `TuneConfig.precision`, for one that is loaded here.
        parent: Of the classifier to go on from.

    Returns:
        The backbone, and what its user should know.
    """
    from npt_core.clip import load_backbone

    if given is None and parent is not None:
        return parent, []
    if given is not None and not isinstance(given, str):
        return given, []
    name = given or named
    return load_backbone(name or DEFAULT_BACKBONE, precision=precision), [] if name else [DEMO_NOTE]


def backbone_of(manifest: Mapping[str, Any], given: Backbone | str | None, what: str) -> Backbone:
    """The backbone of a saved classifier.

    Args:
        manifest: The classifier's.
        given: Loaded, or the words of `load_backbone` for one; None: as the manifest names it, if it
            is a published one.
        what: The classifier, for messages.

    Raises:
        UnknownBackboneError: None was given, and the manifest names a file or a repository of somebody's.
        BackboneUnavailableError: Its weights cannot be had.
    """
    from npt_core.clip import load_backbone, parse_backbone

    if given is not None and not isinstance(given, str):
        return given
    if given is None:
        name = str(manifest["backbone"].get("name", ""))
        with contextlib.suppress(UnknownBackboneError):
            spec = parse_backbone(name)
            if spec.kind in PUBLISHED:
                return load_backbone(spec)
        raise unknown_to_the_reader(what, name)
    return load_backbone(given)


def unknown_to_the_reader(what: str, name: str) -> UnknownBackboneError:
    """What to raise where a saved classifier names a backbone that its word alone does not load."""
    return UnknownBackboneError(
        f"{what} was tuned on the backbone {name[:100]!r}, which is none of the published ones and is not loaded on a "
        "file's word alone. Say where its weights are: backbone='local:NAME=ARCH@/path/to/file' or 'hf-hub:ORG/NAME', "
        "or give a loaded backbone."
    )


@contextlib.contextmanager
def saved_folder(path: Path | str) -> Iterator[Path]:
    """The folder of a saved classifier; an exported zip is judged, and unpacked for as long as the block runs.

    Raises:
        ArtefactError: Nothing there.
        BundleError, ArchiveError: The zip is no exported model, or not as it was exported.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise ArtefactError(
            f"There is no saved classifier {str(path)!r}; give the folder that `save` wrote, which holds "
            f"{MANIFEST_FILE}, or the zip that a server exported."
        )
    from npt_core.bundle import unpack

    with tempfile.TemporaryDirectory(prefix="npt-classifier-") as folder:
        unpack(path, folder)
        yield Path(folder)
