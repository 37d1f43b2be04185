"""`npt tune --local`: the library's tuning in this process, with the same bar, and the classifier in a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.cli.exits import usage
from app.cli.jobs import accuracies
from app.cli.local import MANIFEST, backbone_here
from app.cli.output import emit, note, say
from app.cli.progress import Bar

DEMO_NOTE = (
    "No backbone was named, so this is the demo one. It knows shapes, digits and letters and no photographs; for those "
    "name another: --backbone ViT-B-16/laion2b_s34b_b88k."
)


def tune_here(
    pictures: Path,
    settings: Mapping[str, Any],
    *,
    output: Path | None,
    name: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Tune and save.

    Args:
        output: None: `NAME-classifier` here, after `name` or after the pictures.
    """
    if settings.get("parent") is not None:
        raise usage("--local goes on from no parent: models are known by id on a server alone.")
    folder = (output or Path(f"{name or pictures.expanduser().resolve().stem}-classifier")).expanduser()
    if (folder / MANIFEST).exists():  # before the work, not after it
        raise usage(f"The folder {str(folder)!r} holds a classifier already; say another one with --output.")
    if folder.exists() and not folder.is_dir():
        raise usage(f"{str(folder)!r} is a file; say a folder with --output.")

    with Bar() as bar:
        bar.show({"phase": "loading"})
        from npt_core.data.dataset import Dataset
        from npt_core.tuning.config import TuneConfig
        from npt_core.tuning.control import Progress
        from npt_core.tuning.tune import tune

        logging.getLogger("npt_core").setLevel(logging.ERROR)  # what matters is among the warnings
        config = TuneConfig.from_dict(settings)
        with Dataset.open(pictures) as dataset:
            backbone = backbone_here(config.backbone, device, config.precision)

            def progress(now: Progress) -> None:
                bar.show(now.to_dict())

            result = tune(dataset, config, backbone=backbone, progress=progress)
        bar.state("done", done=True)
    result.classifier.save(folder)

    found = result.report.summary()
    warnings = [*result.warnings, *([DEMO_NOTE] if _by_default(backbone, config.backbone) else [])]
    if as_json:
        emit(
            {
                "classifier": str(folder),
                "labels": list(result.classifier.labels),
                "backbone": backbone.name,
                "metrics": found,
                "warnings": warnings,
                "counters": result.counters,
            }
        )
        return
    for warning in warnings:
        note(f"note: {warning}")
    say(str(folder))
    if told := accuracies(found):
        note(told)
    note(f"Try it: npt predict {folder} IMAGE   Look: npt report {folder} --output report.html")


def _by_default(backbone: Any, named: str | None) -> bool:
    """Whether the demo backbone was taken because nobody named any."""
    import os

    return named is None and backbone.name == "demo" and not os.environ.get("NPT_BACKBONE")
