"""Facts a method declares, and data sets at the edges: two classes, one, more than dimensions, one image a class."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core import Dataset, TuneConfig
from npt_core.errors import ConfigError, IncompatibleError, UnsupportedBackboneError
from npt_core.methods import ImageInput
from tests.contract.cases import (
    CASES,
    METHODS,
    PAIRS,
    REGULARIZERS,
    TEXT,
    Case,
    ids,
    images,
    make,
    run,
    sensible,
    train_data,
)
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_facts_are_true(case: Case, dataset: Dataset, backbone: Any) -> None:
    made = make(backbone, case, dataset.labels).eval()
    data = train_data(backbone, dataset, case)
    made.fit(data.features, data.labels)
    rows = torch.arange(5)
    batch = data.batch(rows, torch.zeros_like(rows))
    output = made(batch)
    assert output.logits.shape == (5, 3)
    assert output.image_features.shape == (5, backbone.d)
    assert torch.allclose(output.image_features.norm(dim=1), torch.ones(5), atol=1e-4)
    assert (output.text_features is not None) == made.has_text_features
    if made.has_text_features:
        assert output.text_features.dim() == (3 if made.text_depends_on_image else 2)
        assert torch.allclose(output.text_features.norm(dim=-1), torch.ones(1), atol=1e-4)
    if made.has_text_features and not made.text_depends_on_image:
        given = made(batch, made.encode_text())
        assert torch.equal(given.logits, output.logits)
    if not made.learns_image_path and batch.features is not None:
        assert torch.equal(output.image_features, batch.features)


@pytest.mark.parametrize(("case", "regularizer"), PAIRS, ids=ids)
@pytest.mark.parametrize("counts", [{"a": 3, "b": 1}, {"a": 1, "b": 1, "c": 1}], ids=["K=2", "one image a class"])
def test_small_data_sets_work(
    case: Case, regularizer: str, counts: dict[str, int], backbone: Any, tmp_path: Path
) -> None:
    small = Dataset.from_folder(write_folder(tmp_path, counts))
    result = run(small, backbone, case, regularizer)
    assert result.report.metrics["tuned"] is None
    assert result.report.metrics["zero_shot"]["count"] == sum(counts.values())
    assert all(torch.isfinite(tensor).all() for tensor in result.classifier.tensors().values())


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_one_class_is_refused(case: Case, backbone: Any) -> None:
    with pytest.raises(ConfigError, match="at least 2 classes, 1 given; add a class"):
        make(backbone, case, ("red",))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, backbone: Any) -> Dataset:
    """One more class than dimensions and one: no simplex ETF is left. One image a class, batches see four classes."""
    counts = {f"thing number {i}": 1 for i in range(backbone.d + 3)}
    return Dataset.from_folder(write_folder(tmp_path_factory.mktemp("many"), counts, side=16))


@pytest.mark.parametrize(("case", "regularizer"), PAIRS, ids=ids)
def test_more_classes_than_dimensions_and_classes_missing_from_a_batch(
    case: Case, regularizer: str, backbone: Any, many: Dataset
) -> None:
    result = run(many, backbone, case, regularizer, batch_size=4, epochs=1)
    assert len(result.classifier.labels) == backbone.d + 3
    assert all(torch.isfinite(tensor).all() for tensor in result.classifier.tensors().values())
    assert all(value is None or value == value for value in result.report.geometry["tuned"].values())
    if case.cls.has_text_features:
        assert result.report.geometry["tuned"]["lmc_excess"] > -1e-6  # never below the exact minimum


@pytest.mark.parametrize(
    ("case", "regularizer"),
    [pair for pair in product(CASES[: len(METHODS)], REGULARIZERS) if not sensible(*pair)],
    ids=ids,
)
def test_pairs_that_make_no_sense_are_refused(case: Case, regularizer: str) -> None:
    with pytest.raises(IncompatibleError, match="makes no sense"):
        TuneConfig(method=case.method, regularizer=regularizer)


@pytest.mark.parametrize("kind", ["quickgelu", "custom", "siglip", "resnet"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_every_tower_works_or_is_refused_by_name(case: Case, kind: str, dataset: Dataset) -> None:
    """Widths come from the backbone; only a method inside the image tower may refuse, and only what is no ViT."""
    other = tiny_backbone(kind)
    if kind == "resnet" and case.cls.image_input is not ImageInput.POOLED:
        with pytest.raises(UnsupportedBackboneError, match="'tiny-resnet'.*ModifiedResNet"):
            run(dataset, other, case, "none", epochs=1)
        return
    result = run(dataset, other, case, "npt" if case.cls.moves_features else "none", epochs=1)
    scores = result.classifier.predict(**images(other, result.classifier))
    assert torch.isfinite(scores.probabilities).all()


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_towers_in_bf16_leave_what_is_learned_in_float32(case: Case, dataset: Dataset) -> None:
    half = tiny_backbone("clip", text=TEXT, precision="bf16")
    result = run(dataset, half, case, "npt" if case.cls.moves_features else "none", epochs=1)
    tensors = result.classifier.tensors().values()
    assert all(tensor.dtype in (torch.float32, torch.int64) and torch.isfinite(tensor).all() for tensor in tensors)
    scores = result.classifier.predict(**images(half, result.classifier))
    assert scores.probabilities.dtype == torch.float32
    assert torch.isfinite(scores.probabilities).all()
