"""Towers stay as they are; what is saved is all there is, under pinned names, and predicts the same when loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core import Classifier, Dataset
from tests.contract.cases import CASES, METHODS, PAIRS, Case, ids, images, run


@pytest.mark.parametrize(("case", "regularizer"), PAIRS, ids=ids)
def test_towers_stay_bit_unchanged_and_the_artefact_predicts_the_same(
    case: Case, regularizer: str, dataset: Dataset, backbone: Any, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in backbone._model.state_dict().items()}
    result = run(dataset, backbone, case, regularizer)
    after = backbone._model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    result.classifier.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model", backbone)
    batch = images(backbone, result.classifier)
    fresh, again = result.classifier.predict(**batch), loaded.predict(**batch)
    assert fresh.labels == again.labels == dataset.labels
    assert torch.equal(fresh.probabilities, again.probabilities)
    assert torch.equal(fresh.similarities, again.similarities)
    assert torch.allclose(fresh.probabilities.sum(dim=1), torch.ones(7), atol=1e-5)
    assert loaded.manifest == result.classifier.manifest
    assert loaded.report == result.classifier.report


OPEN = [one for one in CASES if one.cls.supports_new_classes and not one.config.get("class_specific")]


@pytest.mark.parametrize("case", OPEN, ids=ids)
def test_a_loaded_artefact_knows_new_names_as_the_tuned_one_does(
    case: Case, dataset: Dataset, backbone: Any, tmp_path: Path
) -> None:
    classifier = run(dataset, backbone, case, "none", refit=False).classifier
    classifier.save(tmp_path / "model")
    names = ["a purple cow", "red", "seven"]
    batch = images(backbone, classifier)
    fresh = classifier.predict(**batch, labels=names)
    again = Classifier.load(tmp_path / "model", backbone).predict(**batch, labels=names)
    assert torch.equal(fresh.probabilities, again.probabilities)


PINNED: dict[str, set[str]] = {
    "apt": {
        "learned.ctx",
        "learned.norm.weight",
        "learned.norm.bias",
        *(f"learned.attention.{part}.weight" for part in ("q", "k", "v", "out")),
        "learned.attention.out.bias",
    },
    "cocoop": {"learned.ctx", *(f"learned.meta_net.{n}.{part}" for n in (0, 2) for part in ("weight", "bias"))},
    "coop": {"learned.ctx", "memory", "text_features"},
    "dpt": {
        "learned.ctx",
        "learned.tokens",
        "learned.keys",
        "learned.score.weight",
        "text_features",
        *(f"learned.{part}.{kind}" for part in ("to_query", "norm", "score_norm") for kind in ("weight", "bias")),
        *(f"learned.attention.{part}.weight" for part in ("q", "k", "v")),
    },
    "kgcoop": {"learned.ctx", "memory", "text_features"},
    "linear_probe": {"learned.weight", "learned.bias"},
    "maple": {
        "learned.ctx",
        "learned.deep_ctx",
        "text_features",
        *(f"learned.couplings.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")),
    },
    "prograd": {"learned.ctx", "memory", "text_features"},
    "promptsrc": {"learned.ctx", "learned.deep_ctx", "learned.tokens", "text_features"},
    "tip_adapter": {"learned.keys", "learned.values", "learned.blend", "text_features"},
    "upt": {
        "learned.ctx",
        "learned.unified",
        "text_features",
        *(
            f"learned.{part}.{kind}"
            for part in ("norm_in", "norm_out", "ffn.0", "ffn.2", "to_text", "to_vision")
            for kind in ("weight", "bias")
        ),
        *(f"learned.attention.{part}.weight" for part in ("q", "k", "v", "out")),
        "learned.attention.out.bias",
    },
    "vpt": {"learned.tokens", "text_features"},
    "zero_shot": {"text_features"},
}


def test_every_method_has_its_keys_pinned() -> None:
    assert set(PINNED) == set(METHODS)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_saved_keys_are_pinned(case: Case, dataset: Dataset, backbone: Any) -> None:
    assert set(run(dataset, backbone, case, "none").classifier.tensors()) == PINNED[case.method]
