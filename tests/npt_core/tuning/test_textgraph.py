"""Replayed text steps. No graph can be captured without a GPU, so a stand-in keeps the rules of CUDA's here: one static
output, one static gradient, parameters read where they stood at capture; what it cannot show is marked `gpu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from npt_core.methods import Method, get_method
from npt_core.tuning import textgraph
from npt_core.tuning.textgraph import MIN_STEPS, TextStep, why_not_graphed
from npt_core.tuning.trainer import Trainer
from tests.npt_core.tuning.test_trainer import data, make, regularizer, schedule
from tests.support import toy_methods as toys
from tests.support.tiny_clip import tiny_backbone


class StandIn:
    """`make_graphed_callables` on a machine without CUDA: the same buffers at every replay."""

    def __init__(self) -> None:
        self.captures, self.replays = 0, 0

    def __call__(self, module: Any, args: tuple[Tensor, ...], *, allow_unused_input: bool) -> Callable[[], Tensor]:
        assert args == ()
        assert allow_unused_input
        self.captures += 1
        parameters = [one for one in module.parameters() if one.requires_grad]
        addresses = [one.data_ptr() for one in parameters]
        frozen = module.method.backbone.text  # what was captured reads these weights for good
        static_out = module().detach().clone()
        static_grads = [torch.zeros_like(one) for one in parameters]
        outer = self

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Tensor) -> Tensor:
                outer.replays += 1
                assert [one.data_ptr() for one in inputs] == addresses
                assert module.method.backbone.text is frozen
                with torch.no_grad():
                    static_out.copy_(module())
                return static_out.detach()

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
                with torch.enable_grad():
                    taken = torch.autograd.grad(module(), parameters, grad, allow_unused=True)
                for held, one in zip(static_grads, taken, strict=True):
                    held.copy_(one if one is not None else torch.zeros_like(held))
                return tuple(held.detach() for held in static_grads)

        return lambda: Replay.apply(*parameters)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Graphs are captured here too, by a stand-in; the device is the one condition that is waived."""
    found = StandIn()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", found)
    plain = why_not_graphed

    def anywhere(method: Method, steps: int, *, hand_combined: bool) -> str | None:
        class Elsewhere:
            type = "cuda"

        text = method.backbone.text
        with monkeypatch.context() as patch:
            patch.setattr(type(text), "device", property(lambda self: Elsewhere()))
            return plain(method, steps, hand_combined=hand_combined)

    monkeypatch.setattr(textgraph, "why_not_graphed", anywhere)
    return found


def run(
    method: Method, backbone: Any, *, epochs: int = 20, name: str = "npt"
) -> tuple[list[dict[str, float]], Trainer]:
    one = Trainer(method, data(backbone), regularizer(backbone, name), schedule(epochs, lr=0.2))
    return one.run().history, one


@pytest.mark.parametrize("name", ["coop", "kgcoop"])
def test_replayed_steps_learn_what_plain_ones_do(name: str, backbone: Any, stand_in: StandIn) -> None:
    method = make(get_method(name), backbone)
    replayed, one = run(method, backbone)
    assert one.text.refusal is None
    assert (stand_in.captures, stand_in.replays) == (1, 20 * 4)
    twin = make(get_method(name), backbone)
    other = Trainer(twin, data(backbone), regularizer(backbone), schedule(20, lr=0.2))
    other.text.drop("for comparison")
    assert replayed == other.run().history
    for found, wanted in zip(method.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (get_method("prograd"), "for each loss apart"),
        (get_method("cocoop"), "not computed once a step"),
        (toys.Head, "not computed once a step"),
        (get_method("vpt"), "are fixed"),
    ],
)
def test_what_a_replay_would_change_stays_plain(cls: Any, why: str, backbone: Any, stand_in: StandIn) -> None:
    method = make(cls, backbone)
    hand_combined = cls.combine_gradients is not Method.combine_gradients
    step = TextStep(method, MIN_STEPS, hand_combined=hand_combined)
    assert step() is None
    assert why in str(step.refusal)
    assert stand_in.captures == 0


def test_few_steps_and_chunks_stay_plain(backbone: Any, stand_in: StandIn) -> None:
    method = make(get_method("coop"), backbone)
    assert TextStep(method, MIN_STEPS - 1, hand_combined=False)() is None
    method.chunk = 2
    assert TextStep(method, MIN_STEPS, hand_combined=False)() is None
    assert stand_in.captures == 0


def test_towers_off_the_fast_path_stay_plain(stand_in: StandIn) -> None:
    other = tiny_backbone("siglip")
    assert other.text.fast_refusal
    assert TextStep(make(get_method("coop"), other), MIN_STEPS, hand_combined=False)() is None
    assert stand_in.captures == 0


def test_without_cuda_nothing_is_captured(backbone: Any) -> None:
    _, one = run(make(get_method("coop"), backbone), backbone)
    assert "CUDA" in str(one.text.refusal)


def test_a_capture_that_fails_leaves_the_tuning_as_it_was(
    backbone: Any, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    wanted, _ = run(make(get_method("coop"), backbone), backbone)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    found, one = run(make(get_method("coop"), backbone), backbone)
    assert found == wanted
    assert "out of memory" in str(one.text.refusal)


def test_memory_that_runs_out_in_mid_tuning_ends_the_replays(backbone: Any, stand_in: StandIn) -> None:
    method = make(get_method("coop"), backbone)
    one = Trainer(method, data(backbone), regularizer(backbone), schedule(20))
    plain, calls = one.loss.backward, 0

    def backward(task: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return plain(task)

    one.loss.backward = backward  # type: ignore[method-assign]
    result = one.run()
    assert result.chunk_halvings == 1
    assert method.chunk == 1
    assert (one.text.refusal, stand_in.replays) == ("memory is short", 10)
    assert result.steps == 80


def test_exchanged_towers_end_the_replays(stand_in: StandIn) -> None:
    narrow = tiny_backbone(precision="bf16")
    method = make(get_method("coop"), narrow)
    one = Trainer(method, data(narrow), regularizer(narrow), schedule(20))
    plain, calls = one.loss.backward, 0

    def backward(task: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return plain(task) * (float("nan") if calls == 10 else 1.0)

    one.loss.backward = backward  # type: ignore[method-assign]
    assert one.run().fp32_retries == 1
    assert (one.text.refusal, stand_in.replays) == ("the towers were exchanged", 10)


class _NothingFromTheHost(TorchDispatchMode):
    """Fails where an operation reads a value back or makes a tensor out of Python numbers: a capture cannot."""

    forbidden = ("_local_scalar_dense", "lift_fresh", "nonzero", "is_nonzero", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in self.forbidden:
            on_host = all(not isinstance(a, Tensor) or a.dtype in (torch.int64, torch.bool) for a in args)
            if not (name == "_local_scalar_dense" and on_host):  # eot_index stays in main memory on purpose
                raise AssertionError(f"{func.name()} in a step that is to be captured")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", [{}, {"n_ctx": 4, "position": "middle"}, {"class_specific": True}])
def test_a_step_that_was_warmed_up_asks_nothing_of_the_host(config: dict[str, Any], backbone: Any) -> None:
    method = make(get_method("coop"), backbone, **config)
    assert method.encode_text().requires_grad  # layouts are made and kept in the first call
    with _NothingFromTheHost():
        method.encode_text().sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_a_replayed_tuning_equals_a_plain_one(precision: str) -> None:
    backbone = tiny_backbone(device="cuda", precision=precision)
    found, one = run(make(get_method("coop"), backbone).to("cuda"), backbone)
    assert one.text.refusal is None
    other = Trainer(
        make(get_method("coop"), backbone).to("cuda"), data(backbone), regularizer(backbone), schedule(20, lr=0.2)
    )
    other.text.drop("for comparison")
    wanted = other.run().history
    assert [entry["loss"] for entry in found] == pytest.approx([entry["loss"] for entry in wanted], rel=1e-3)
