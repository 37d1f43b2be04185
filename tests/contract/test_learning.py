"""Only declared parameters learn, all of them do, gradients are finite, weight 0 is the plain loss, seeds decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from npt_core import Dataset
from npt_core.collapse import get_regularizer
from npt_core.methods import Method
from npt_core.tuning.traindata import TrainData
from tests.contract.cases import (
    CASES,
    LEARNING_PAIRS,
    STEPPING_PAIRS,
    Case,
    ids,
    make,
    run,
    shaken,
    train_data,
    trainer_of,
)


def tensors_of(thing: object, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that can be reached from an object through attributes, containers and modules, the towers too."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield path, thing
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from tensors_of(value, f"{path}.{key}", seen)
    elif isinstance(thing, list | tuple):
        for number, value in enumerate(thing):
            yield from tensors_of(value, f"{path}.{number}", seen)
    elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("npt_core"):
        yield from tensors_of(getattr(thing, "__dict__", {}), path, seen)


def test_the_walk_reaches_parameters_buffers_caches_and_towers(backbone: Any) -> None:
    method = make(backbone, Case("tip_adapter", "tip_adapter"), ("red", "blue"))
    method.zero_shot_text()
    found = {id(tensor) for _, tensor in tensors_of(method)}
    wanted = [method.keys, method.values, method._zero_shot_text, *backbone._model.state_dict(keep_vars=True).values()]
    assert all(id(tensor) in found for tensor in wanted)


@pytest.mark.parametrize(("case", "regularizer"), LEARNING_PAIRS, ids=ids)
def test_only_declared_parameters_learn(case: Case, regularizer: str, dataset: Dataset, backbone: Any) -> None:
    """Declared is what the artefact holds: parameters, and buffers that are saved."""
    method = make(backbone, case, dataset.labels)
    method.zero_shot_text()
    trainer = trainer_of(method, train_data(backbone, dataset, case), regularizer)
    parameters = {id(parameter) for parameter in method.parameters()}
    groups = trainer.optimizer.param_groups if trainer.optimizer is not None else []
    assert {id(parameter) for group in groups for parameter in group["params"]} <= parameters

    learned = {id(tensor) for tensor in method.state_dict(keep_vars=True).values()}
    before = {path: (tensor, tensor.clone()) for path, tensor in tensors_of(method) if id(tensor) not in learned}
    first = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    trainer.run()
    after = dict(tensors_of(method))
    assert len(before) > 50  # the towers are among them
    for path, (tensor, value) in before.items():
        assert torch.equal(tensor, value), path
        assert torch.equal(after[path], value), path
    assert any(not torch.equal(tensor, first[name]) for name, tensor in method.state_dict().items())


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_every_learned_tensor_is_float32_and_no_tower(case: Case, backbone: Any) -> None:
    made = make(backbone, case, ("red", "green", "blue"))
    towers = {id(parameter) for parameter in backbone._model.parameters()}
    assert not any(id(parameter) in towers for parameter in made.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in made.parameters())
    assert bool(list(made.parameters())) or not made.learns or type(made).fit is not Method.fit


@pytest.mark.parametrize(("case", "regularizer"), STEPPING_PAIRS, ids=ids)
def test_gradients_are_finite_and_reach_every_parameter_and_no_tower(
    case: Case, regularizer: str, dataset: Dataset, backbone: Any
) -> None:
    made = shaken(make(backbone, case, dataset.labels))
    data = train_data(backbone, dataset, case)
    trainer = trainer_of(made, data, regularizer)
    made.fit(data.features, data.labels)
    batch = data.batch(torch.arange(len(data.labels)), torch.zeros(len(data.labels), dtype=torch.int64))
    batch = replace(batch, labels=(data.labels + 1) % 3)  # wrong ones: a loss near 0 would have no slope to speak of
    task, terms = trainer.loss.terms(batch, made(batch))
    trainer.loss.backward(task)
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 1e-7, name
    assert all(torch.isfinite(term.detach()).all() for term in terms.values())
    assert all(parameter.grad is None for parameter in backbone._model.parameters())


def weightless(regularizer: str) -> dict[str, Any]:
    """The config in which every weight of a regulariser is 0."""
    fields = get_regularizer(regularizer).Config().to_dict()
    return {name: 0.0 for name in fields if name.startswith(("lambda", "weight"))}


@pytest.mark.parametrize(("case", "regularizer"), [pair for pair in LEARNING_PAIRS if pair[1] != "none"], ids=ids)
def test_weight_zero_is_the_plain_loss_bit_for_bit(
    case: Case, regularizer: str, dataset: Dataset, backbone: Any
) -> None:
    plain = run(dataset, backbone, case, "none", refit=False)
    zero = run(dataset, backbone, case, regularizer, refit=False, regularizer_config=weightless(regularizer))
    full = run(dataset, backbone, case, regularizer, refit=False)
    ours, theirs, others = (one.classifier.tensors() for one in (plain, zero, full))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert plain.report.history == zero.report.history
    assert any(not torch.equal(ours[name], others[name]) for name in ours)  # the regulariser does do something


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_the_same_seed_gives_the_same_bits_another_seed_another_run(
    case: Case, dataset: Dataset, backbone: Any
) -> None:
    first, second, other = (
        run(dataset, backbone, case, "none", refit=False, seed=seed).classifier.tensors() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    if case.cls.learns and case.cls.fit is Method.fit:
        assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("case", [one for one in CASES if one.cls.learns_image_path], ids=ids)
def test_a_learned_image_path_is_pulled_by_its_batch_and_remembers_absent_classes(
    case: Case, dataset: Dataset, backbone: Any
) -> None:
    method = shaken(make(backbone, case, dataset.labels))
    data = train_data(backbone, dataset, case)
    trainer = trainer_of(method, data, "npt")
    assert trainer.loss.fixed_means is None
    assert trainer.loss.moving is not None
    every = data.batch(torch.arange(len(data.labels)), torch.zeros_like(data.labels))
    trainer.loss.terms(every, method(every))
    before = trainer.loss.moving.mean.clone()
    rows = torch.nonzero(data.labels == 0).flatten()[:3]
    batch = data.batch(rows, torch.zeros_like(rows))
    output = method(batch)
    terms = trainer.loss.terms(batch, output)[1]
    own = output.image_features.detach().mean(0)
    assert torch.equal(trainer.loss.moving.mean[1:], before[1:])
    torch.testing.assert_close(trainer.loss.moving.mean[0], 0.9 * before[0] + 0.1 * own)
    (slope,) = torch.autograd.grad(terms["mmi"], [output.image_features], retain_graph=True)
    assert float(slope.abs().max()) > 0
    torch.testing.assert_close(slope, slope[:1].expand_as(slope))  # through the batch's mean, not scaled by the memory
    pulled = torch.autograd.grad(terms["mmi"], list(method.parameters()), allow_unused=True)
    visual = [g for (name, _), g in zip(method.named_parameters(), pulled, strict=True) if name != "ctx"]
    assert any(g is not None and float(g.abs().max()) > 0 for g in visual)


@pytest.mark.parametrize("case", [one for one in CASES if not one.cls.learns_image_path], ids=ids)
def test_a_frozen_image_path_has_fixed_means_of_all_views(case: Case, dataset: Dataset, backbone: Any) -> None:
    method = make(backbone, case, dataset.labels)
    data = train_data(backbone, dataset, case)
    twice = TrainData(data.labels, 2, torch.cat([data.features, data.features.roll(1, 0)], dim=1), data.tokens)
    trainer = trainer_of(method, twice, "none")
    assert trainer.loss.moving is None
    means = torch.stack([twice.features[twice.labels == k].flatten(0, 1).mean(0) for k in range(3)])
    torch.testing.assert_close(trainer.loss.fixed_means, means)
