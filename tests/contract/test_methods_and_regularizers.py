"""What every method and every regulariser must keep, found through the registries: a new file is tested by existing."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from npt_core import Classifier, Dataset, TuneConfig, tune
from npt_core.clip import ClassPrompt
from npt_core.collapse import CollapseSetup, get_regularizer, list_regularizers
from npt_core.errors import IncompatibleError, PromptLengthError
from npt_core.methods import ImageBatch, ImageInput, Method, get_method, list_methods
from npt_core.tuning.config import Schedule
from npt_core.tuning.features import MemoryFeatureCache, encode_dataset
from npt_core.tuning.trainer import TrainData, Trainer
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone

METHODS = [info.name for info in list_methods()]
REGULARIZERS = [info.name for info in list_regularizers()]
QUICK = {"epochs": 2, "views": 2, "batch_size": 5, "lr": 0.02}
CACHE = MemoryFeatureCache()


def sensible(method: str, regularizer: str) -> bool:
    cls = get_method(method)
    return regularizer == "none" or cls.moves_features


PAIRS = [pair for pair in product(METHODS, REGULARIZERS) if sensible(*pair)]
LEARNING_PAIRS = [pair for pair in PAIRS if get_method(pair[0]).learns]


def takes_steps(name: str) -> bool:
    classes = [ClassPrompt("red"), ClassPrompt("blue")]
    cls = get_method(name)
    made = cls(cls.Config(), tiny_backbone("clip"), classes, generator=torch.Generator().manual_seed(0))
    return made.takes_steps


STEPPING_PAIRS = [pair for pair in LEARNING_PAIRS if takes_steps(pair[0])]


def weightless(regularizer: str) -> dict[str, Any]:
    """The config in which every weight of a regulariser is 0."""
    fields = get_regularizer(regularizer).Config().to_dict()
    return {name: 0.0 for name in fields if name.startswith(("lambda", "weight"))}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.from_folder(write_folder(tmp_path_factory.mktemp("contract"), {"red": 6, "green": 6, "blue": 6}))


def run(dataset: Dataset, backbone: Any, method: str, regularizer: str, **settings: Any) -> Any:
    config = TuneConfig.from_dict({"method": method, "regularizer": regularizer, **QUICK, **settings})
    return tune(dataset, config, backbone=backbone, cache=CACHE)


def weights(backbone: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone._model.state_dict().items()}


def images(backbone: Any, classifier: Classifier, count: int = 7) -> dict[str, Tensor]:
    pixels = torch.randn(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(1))
    tokens = backbone.image.encode_tokens(pixels).tokens.detach() if classifier.needs_tokens else None
    return {"images": pixels if classifier.needs_pixels else backbone.encode_images(pixels), "tokens": tokens}


def train_data(backbone: Any, dataset: Dataset, cls: type[Method]) -> TrainData:
    from npt_core.tuning.features import PixelSource

    indices = range(len(dataset.samples))
    if cls.image_input is ImageInput.PIXELS:
        labels = torch.tensor([dataset.labels.index(sample.label) for sample in dataset.samples])
        return TrainData(labels, 1, pixels=PixelSource(backbone, dataset, indices))
    found = encode_dataset(backbone, dataset, indices, cache=CACHE, with_tokens=cls.image_input is ImageInput.TOKENS)
    return TrainData(found.labels, 1, found.features, found.tokens)


def make(backbone: Any, name: str, labels: tuple[str, ...], **config: Any) -> Method:
    cls = get_method(name)
    classes = [ClassPrompt(label) for label in labels]
    return cls(cls.Config(**config), backbone, classes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("method", "regularizer"), PAIRS)
def test_towers_stay_bit_unchanged_and_the_artefact_predicts_the_same(
    method: str, regularizer: str, dataset: Dataset, backbone: Any, tmp_path: Path
) -> None:
    before = weights(backbone)
    result = run(dataset, backbone, method, regularizer)
    after = weights(backbone)
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


@pytest.mark.parametrize("method", METHODS)
def test_every_learned_tensor_is_float32_and_no_tower(method: str, backbone: Any) -> None:
    made = make(backbone, method, ("red", "green", "blue"))
    towers = {id(parameter) for parameter in backbone._model.parameters()}
    assert not any(id(parameter) in towers for parameter in made.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in made.parameters())
    assert bool(list(made.parameters())) or not made.learns or type(made).fit is not Method.fit


@pytest.mark.parametrize(("method", "regularizer"), STEPPING_PAIRS)
def test_gradients_are_finite_and_reach_every_parameter(
    method: str, regularizer: str, dataset: Dataset, backbone: Any
) -> None:
    cls = get_method(method)
    made = make(backbone, method, dataset.labels)
    data = train_data(backbone, dataset, cls)
    trainer = build_trainer(made, data, regularizer, backbone)
    made.fit(data.features, data.labels)
    batch = data.batch(torch.arange(len(data.labels)), torch.zeros(len(data.labels), dtype=torch.int64))
    task, terms = trainer._losses(batch, made(batch))
    trainer._backward(task, terms)
    learned = [parameter for parameter in made.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learned)
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in learned)
    assert all(torch.isfinite(term.detach()).all() for term in terms.values())


def build_trainer(method: Method, data: TrainData, regularizer: str, backbone: Any) -> Trainer:
    cls = get_regularizer(regularizer)
    frozen = make(backbone, "zero_shot", tuple(one.label for one in method.classes)).encode_text()
    setup = CollapseSetup(frozen, torch.bincount(data.labels), 0)
    schedule = Schedule.resolve(TuneConfig.from_dict({"method": method.name, **QUICK}), len(data.labels), 3)
    return Trainer(method, data, cls(cls.Config(), setup), schedule)


@pytest.mark.parametrize(("method", "regularizer"), [pair for pair in LEARNING_PAIRS if pair[1] != "none"])
def test_weight_zero_is_the_plain_loss_bit_for_bit(
    method: str, regularizer: str, dataset: Dataset, backbone: Any
) -> None:
    plain = run(dataset, backbone, method, "none", refit=False).classifier
    zero = run(
        dataset, backbone, method, regularizer, refit=False, regularizer_config=weightless(regularizer)
    ).classifier
    full = run(dataset, backbone, method, regularizer, refit=False).classifier
    ours, theirs, others = plain.tensors(), zero.tensors(), full.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(not torch.equal(ours[name], others[name]) for name in ours)  # the regulariser does do something


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bits_another_seed_another_run(
    method: str, dataset: Dataset, backbone: Any
) -> None:
    first, second, other = (
        run(dataset, backbone, method, "none", refit=False, seed=seed).classifier.tensors() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    if get_method(method).learns and type(make(backbone, method, ("a", "b"))).fit is Method.fit:
        assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_facts_are_true(method: str, dataset: Dataset, backbone: Any) -> None:
    made = make(backbone, method, dataset.labels).eval()
    data = train_data(backbone, dataset, type(made))
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


@pytest.mark.parametrize("method", METHODS)
def test_new_class_names_work_or_are_refused_with_a_reason(method: str, dataset: Dataset, backbone: Any) -> None:
    classifier = run(dataset, backbone, method, "none").classifier
    batch = images(backbone, classifier)
    own = classifier.predict(**batch)
    part = classifier.predict(**batch, labels=[dataset.labels[2], dataset.labels[0]])
    assert torch.equal(part.similarities, own.similarities[:, [2, 0]])  # its own names always work
    if classifier.method.new_classes_refusal() is None:
        found = classifier.predict(**batch, labels=["a purple cow", "red", "seven", "tree"])
        assert found.probabilities.shape == (7, 4)
        assert torch.isfinite(found.probabilities).all()
        if not classifier.method.image_depends_on_classes:
            assert torch.allclose(found.similarities[:, 1], own.similarities[:, dataset.labels.index("red")], atol=1e-5)
    else:
        with pytest.raises(IncompatibleError, match=r"cannot take other class names: .+"):
            classifier.predict(**batch, labels=["red", "tree"])


@pytest.mark.parametrize(("method", "regularizer"), PAIRS)
@pytest.mark.parametrize("counts", [{"a": 3, "b": 1}, {"a": 1, "b": 1, "c": 1}], ids=["K=2", "one image a class"])
def test_small_data_sets_work(
    method: str, regularizer: str, counts: dict[str, int], backbone: Any, tmp_path: Path
) -> None:
    small = Dataset.from_folder(write_folder(tmp_path, counts))
    result = run(small, backbone, method, regularizer)
    assert result.report.metrics["tuned"] is None
    assert result.report.metrics["zero_shot"]["count"] == sum(counts.values())
    assert all(torch.isfinite(tensor).all() for tensor in result.classifier.tensors().values())


@pytest.mark.parametrize(("method", "regularizer"), LEARNING_PAIRS)
def test_more_classes_than_dimensions_and_classes_missing_from_a_batch(
    method: str, regularizer: str, backbone: Any, tmp_path: Path
) -> None:
    counts = {f"thing number {i}": 1 for i in range(backbone.d + 3)}
    result = run(
        Dataset.from_folder(write_folder(tmp_path, counts, side=16)),
        backbone,
        method,
        regularizer,
        batch_size=4,
        epochs=1,
    )
    assert all(torch.isfinite(tensor).all() for tensor in result.classifier.tensors().values())


@pytest.mark.parametrize("method", [name for name in METHODS if get_method(name).has_text_features])
def test_names_of_any_length_and_too_long_ones(method: str, backbone: Any) -> None:
    names = ["cat", "a very large red cat on a mat", "cat cat cat cat cat cat cat cat cat cat cat cat"]
    made = make(backbone, method, tuple(names))
    if not made.text_depends_on_image and made.image_input is ImageInput.POOLED:
        output = made(ImageBatch(features=torch.nn.functional.normalize(torch.randn(2, backbone.d), dim=1)))
        assert torch.isfinite(output.logits).all()
    with pytest.raises(PromptLengthError, match="word word"):
        make(backbone, method, ("cat", " ".join(["word"] * 40)))


@pytest.mark.parametrize(("method", "regularizer"), sorted(set(product(METHODS, REGULARIZERS)) - set(PAIRS)))
def test_pairs_that_make_no_sense_are_refused(method: str, regularizer: str) -> None:
    with pytest.raises(IncompatibleError, match="makes no sense"):
        TuneConfig(method=method, regularizer=regularizer)


PINNED: dict[str, set[str]] = {
    "apt": {
        "learned.ctx",
        "learned.norm.weight",
        "learned.norm.bias",
        *(f"learned.attention.{part}.weight" for part in ("q", "k", "v", "out")),
        "learned.attention.out.bias",
    },
    "cocoop": {"learned.ctx", *(f"learned.meta_net.{n}.{part}" for n in (0, 2) for part in ("weight", "bias"))},
    "coop": {"learned.ctx", "text_features"},
    "dpt": {
        "learned.ctx",
        "learned.tokens",
        "text_features",
        *(f"learned.{part}.{kind}" for part in ("to_query", "norm", "score") for kind in ("weight", "bias")),
        *(f"learned.attention.{part}.weight" for part in ("q", "k", "v", "out")),
        "learned.attention.out.bias",
    },
    "kgcoop": {"learned.ctx", "text_features"},
    "linear_probe": {"learned.weight", "learned.bias"},
    "maple": {
        "learned.ctx",
        "learned.deep_ctx",
        "text_features",
        *(f"learned.couplings.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")),
    },
    "prograd": {"learned.ctx", "text_features"},
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


@pytest.mark.parametrize("method", sorted(PINNED))
def test_saved_keys_are_pinned(method: str, dataset: Dataset, backbone: Any) -> None:
    assert set(run(dataset, backbone, method, "none").classifier.tensors()) == PINNED[method]
