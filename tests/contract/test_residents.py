"""What a server keeps of a classifier answers as the whole classifier does, whatever its method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core import Classifier, Dataset, Scores
from npt_core.serving.resident import Resident, load_resident
from tests.contract.cases import CASES, Case, ids, images, run

NAMES = ["a purple cow", "red", "seven"]
STATED: dict[str, Any] = {
    "as tuned": {},
    "mixed and calibrated": {
        "tuned_share": 0.7,
        "calibration": {"temperature": 2.5, "count": 40, "source": "held-out", "reject_below": None},
        "assumed_frequencies": [0.5, 0.25, 0.25],
    },
}


@pytest.fixture
def saved(case: Case, stated: str, dataset: Dataset, backbone: Any, tmp_path: Path) -> Path:
    run(dataset, backbone, case, "none", refit=False).classifier.save(tmp_path / "model")
    manifest = tmp_path / "model" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | STATED[stated]))
    return tmp_path / "model"


def same(one: Scores, other: Scores) -> bool:
    numbers = [(one.probabilities, other.probabilities), (one.similarities, other.similarities)]
    facts = [(s.labels, s.calibrated, s.temperature, s.priors_applied) for s in (one, other)]
    return facts[0] == facts[1] and all(torch.equal(a, b) for a, b in numbers)


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_every_answer_is_that_of_the_whole_classifier(case: Case, stated: str, saved: Path, backbone: Any) -> None:
    whole, kept = Classifier.load(saved, backbone), load_resident(saved, backbone)
    assert isinstance(kept, Resident) == case.cls.answers_from_text()
    assert kept.labels == whole.labels
    assert kept.needs_pixels == whole.needs_pixels
    assert kept.needs_tokens == whole.needs_tokens
    assert kept.backbone.preprocess == whole.backbone.preprocess
    assert kept.new_classes_refusal() == whole.new_classes_refusal()
    seen = images(backbone, whole)
    priors = {label: number + 1 for number, label in enumerate(whole.labels)}
    for _ in range(2):  # the second time from what the first one kept
        assert same(kept.predict(**seen), whole.predict(**seen))
        assert same(kept.predict(**seen, priors=priors), whole.predict(**seen, priors=priors))
        some = ["red", "blue"]
        assert same(kept.predict(**seen, labels=some), whole.predict(**seen, labels=some))
        if whole.new_classes_refusal() is None:
            assert same(kept.predict(**seen, labels=NAMES), whole.predict(**seen, labels=NAMES))


ONE_CONTEXT = {"coop", "kgcoop", "prograd", "zero_shot"}


def test_methods_that_are_their_text_features_are_known() -> None:
    assert {case.method for case in CASES if case.cls.answers_from_text()} == ONE_CONTEXT
