"""Classifiers in a folder or an exported zip on this machine, and the backbone they need. Imports torch when called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.exits import CommandError

if TYPE_CHECKING:
    from npt_core.classifier import Classifier
    from npt_core.clip.backbone import Backbone

MANIFEST = "manifest.json"


def saved_here(name: str) -> Path | None:
    """The saved classifier of that path; None where it is the name of a model on a server.

    Raises:
        CommandError: It can only be a path, and no classifier is there.
    """
    path = Path(name).expanduser()
    if (path / MANIFEST).is_file() or (path.suffix.lower() == ".zip" and path.is_file()):
        return path
    if name.startswith((".", "~", os.sep)) or os.sep in name or path.suffix.lower() == ".zip":
        raise CommandError(
            f"There is no saved classifier {name!r}: it is a folder with a {MANIFEST} (`npt tune --local` writes one) "
            "or an exported zip (`npt export`).",
            "not-found",
        )
    return None


def backbone_here(name: str | None, device: str | None, precision: str = "auto") -> Backbone:
    """Load a backbone as the service on this machine would: its device, its folder of weights.

    Args:
        name: The words for one; None: the first of the settings.
        device: None: that of the settings.
        precision: `auto`: that of the settings.
    """
    from app.settings import AppSettings
    from npt_core.clip import load_backbone, parse_backbone

    settings = AppSettings()
    if settings.torch_threads:
        import torch

        torch.set_num_threads(settings.torch_threads)
    known = {parse_backbone(entry).name: entry for entry in settings.backbone_entries}
    wanted = name or settings.backbone_entries[0]
    return load_backbone(
        known.get(wanted, wanted),
        device=device or settings.device,
        precision=settings.precision if precision == "auto" else precision,
        cache_dir=settings.weights_path,
    )


def load_here(path: Path, backbone: str | None, device: str | None) -> Classifier:
    """Load a saved classifier.

    Args:
        path: Folder or exported zip.
        backbone: None: one of the settings, or a published one, of the name that the classifier keeps.
        device: As above.
    """
    from app.settings import AppSettings
    from npt_core.classifier import Classifier
    from npt_core.clip import parse_backbone
    from npt_core.errors import UnknownBackboneError
    from npt_core.opening import PUBLISHED, saved_folder, unknown_to_the_reader

    with saved_folder(path) as folder:
        if backbone is None:
            named = str(Classifier.read_manifest(folder)["backbone"].get("name", ""))
            known = {parse_backbone(entry).name for entry in AppSettings().backbone_entries}
            try:
                published = parse_backbone(named).kind in PUBLISHED
            except UnknownBackboneError:
                published = False
            if named not in known and not published:
                raise unknown_to_the_reader(f"Classifier {path.name!r}", named)
            backbone = named
        return Classifier.load(folder, backbone_here(backbone, device))
