from __future__ import annotations

import json
from typing import Any

import pytest

from npt_core import Dataset, TuneConfig, tune
from tests.support.pictures import COLOURS, picture, write_folder


def tuned(dataset: Dataset, backbone: Any, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(report, manifest) of a small tuning, as their JSON files have them."""
    classifier = tune(dataset, TuneConfig(**settings), backbone=backbone).classifier
    return json.loads(json.dumps(classifier.report)), json.loads(json.dumps(classifier.manifest))


@pytest.fixture(scope="session")
def muddled(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three colours; a third of the test pictures carry the wrong label, and there is none of a fourth colour."""
    root = tmp_path_factory.mktemp("muddled")
    write_folder(root, {"red": 6, "green": 6, "blue": 6}, split="train")
    for number, label in enumerate(("red", "green", "blue")):
        (root / "test" / label).mkdir(parents=True)
        for i in range(6):
            colour = COLOURS[("green", "blue", "red")[number] if i % 3 == 0 else label]
            picture(colour, 900 + 40 * number + i).save(root / "test" / label / f"{i}.png")
    return Dataset.from_folder(root)


@pytest.fixture(scope="session")
def full(muddled: Dataset, backbone: Any) -> dict[str, Any]:
    """A report that has everything a page can show."""
    report, _ = tuned(muddled, backbone, epochs=3, views=1, batch_size=8, lr=0.02)
    part = {
        "ece": 0.064,
        "nll": 0.31,
        "bins": [
            {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
            {"low": 0.5, "high": 0.75, "count": 4, "confidence": 0.66, "accuracy": 0.5},
            {"low": 0.75, "high": 1.0, "count": 14, "confidence": 0.93, "accuracy": 0.86},
        ],
    }
    finding = {
        "kind": "likely-label-error",
        "severity": "warning",
        "message": "1 picture looks like another class",
        "paths": ["test/red/0.png"],
        "count": 1,
        "items": [{"path": "test/red/0.png", "label": "red", "suggested": "green", "probability": 0.9971}],
        "suggest": {"edit": {"relabel": {"test/red/0.png": "green"}}},
    }
    told = {"accuracy": 0.8, "accuracy_interval": [0.6, 0.9], "count": 18}
    return report | {
        "parent": {
            "id": "model_0",
            "old_classes": ["red", "green"],
            "new_classes": ["blue"],
            "old_accuracy": {"before": told, "at_start": told, "after": told, "change": -0.1, "p_value": 0.04},
            "measured": "on 18 images of the parent's data",
            "new_accuracy": told,
            "protection": {"asked": "auto", "used": "both", "replayed": 8, "directions": 3, "strength": 1.0},
            "bound": {"max_old_loss": 0.1, "kept_by": 9, "share": 0.8, "held": True},
        },
        "warnings": ["The loss was not finite once."],
        "calibration": {
            "temperature": 1.42,
            "count": 18,
            "source": "the measured images",
            "before": part,
            "after": part | {"ece": 0.021},
            "zero_shot": part,
            "thresholds": [
                {
                    "threshold": t / 10,
                    "answered": 18 - t,
                    "answered_share": 1 - t / 18,
                    "accuracy": 0.7 + t / 40,
                    "wrong_answered": 5 - t // 2,
                    "right_rejected": t // 2,
                }
                for t in range(10)
            ],
            "recommended": {"threshold": 0.6, "reason": "the lowest at which 9 of 10 answers are right"},
        },
        "audit": {"status": "done", "backbone": "demo", "findings": [finding]},
        "selection": {
            "chooses": "method",
            "chosen": {"recipe": "coop", "tuned_share": 1.0, "accuracy": 0.9, "nll": 0.3},
            "table": [
                {"recipe": "zero_shot", "tuned_share": 0.0, "accuracy": 0.8, "nll": 0.5},
                {"recipe": "coop", "tuned_share": 1.0, "accuracy": 0.9, "nll": 0.3},
            ],
            "folds": 3,
            "images": 18,
        },
    }
