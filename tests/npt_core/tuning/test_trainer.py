"""The one training loop: hooks, schedule, resuming, and what it does when something goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from npt_core.clip import ClassPrompt
from npt_core.collapse import CollapseSetup, get_regularizer
from npt_core.continual.nullspace import NullSpace
from npt_core.errors import Cancelled, ConfigError, Drained, NonFiniteLossError, OutOfMemoryError
from npt_core.methods import ImageBatch, Method, get_method
from npt_core.tuning.checkpoint import Checkpointer
from npt_core.tuning.config import Schedule, TuneConfig
from npt_core.tuning.control import MemoryCheckpointStore, Progress
from npt_core.tuning.meter import Meter
from npt_core.tuning.traindata import TrainData
from npt_core.tuning.trainer import MAX_GEOMETRY, Trainer
from tests.support import toy_methods as toys

CLASSES = [ClassPrompt(label) for label in ("red", "green", "blue")]
N, V = 14, 3


def schedule(epochs: int = 4, batch_size: int = 4, lr: float = 0.05) -> Schedule:
    return Schedule(
        epochs=epochs, batch_size=batch_size, lr=lr, momentum=0.9, weight_decay=5e-4, warmup_epochs=1, warmup_lr=1e-5
    )


def make(cls: type[Method], backbone: Any, **config: Any) -> Method:
    return cls(cls.Config(**config), backbone, CLASSES, generator=torch.Generator().manual_seed(0))


def data(backbone: Any, tokens: bool = False) -> TrainData:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(N) % 3
    centre = torch.randn(3, backbone.d, generator=generator)
    raw = centre[labels].unsqueeze(1) + 0.8 * torch.randn(N, V, backbone.d, generator=generator)
    token_features = torch.randn(N, V, 5, backbone.d, generator=generator) if tokens else None
    return TrainData(labels, V, torch.nn.functional.normalize(raw, dim=-1), token_features)


def regularizer(backbone: Any, name: str = "npt", **config: float) -> Any:
    cls = get_regularizer(name)
    return cls(cls.Config(**config), CollapseSetup(torch.randn(3, backbone.d), torch.ones(3), 0))


def trainer(method: Method, backbone: Any, name: str = "npt", **kwargs: Any) -> Trainer:
    given = kwargs.pop("data", None) or data(backbone)
    return Trainer(method, given, regularizer(backbone, name), kwargs.pop("schedule", schedule()), **kwargs)


class PixelStub:
    """Pixels without files."""

    def __init__(self, backbone: Any) -> None:
        self.backbone, self.asked = backbone, []

    def batch(self, rows: list[int], views: list[int]) -> torch.Tensor:
        self.asked.append((list(rows), list(views)))
        return torch.stack(
            [torch.randn(3, *self.backbone.image_size, generator=torch.Generator().manual_seed(r)) for r in rows]
        )


def test_it_learns(backbone: Any) -> None:
    found = trainer(make(get_method("coop"), backbone), backbone, "none", schedule=schedule(30, lr=0.2)).run()
    assert found.history[-1]["loss"] < 0.85 * found.history[0]["loss"]
    assert found.steps == 30 * 4
    assert [entry["epoch"] for entry in found.history] == list(range(1, 31))


def test_regulariser_terms_fall_and_are_in_the_history(backbone: Any) -> None:
    found = trainer(make(get_method("coop"), backbone), backbone, schedule=schedule(30, lr=0.2)).run()
    assert {"ce", "lmc", "mmi"} <= found.history[0].keys()
    assert found.history[-1]["mmi"] < found.history[0]["mmi"]
    total = found.history[3]
    assert total["loss"] == pytest.approx(total["ce"] + total["lmc"] + total["mmi"], rel=1e-5)


def test_schedule_is_one_warm_up_epoch_then_a_cosine(backbone: Any) -> None:
    plan = schedule(epochs=11, lr=0.002)
    assert plan.lr_at(0) == 1e-5
    assert plan.lr_at(1) == 0.002
    assert plan.lr_at(6) == pytest.approx(0.001)
    rates = [plan.lr_at(epoch) for epoch in range(1, 11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
    found = trainer(make(toys.Toy, backbone), backbone, schedule=plan).run()
    assert [entry["lr"] for entry in found.history] == [plan.lr_at(epoch) for epoch in range(11)]


def test_a_long_gradient_is_shortened_and_a_short_one_left_alone(backbone: Any) -> None:
    def moved(clip_norm: float | None) -> torch.Tensor:
        plan = replace(schedule(epochs=1, batch_size=N), momentum=0.0, weight_decay=0.0, warmup_epochs=0, lr=1.0)
        method = make(toys.Toy, backbone)
        trainer(method, backbone, "none", schedule=replace(plan, clip_norm=clip_norm)).run()
        return method.shift.detach()

    free = moved(None)
    assert torch.equal(moved(2 * float(free.norm())), free)
    short = moved(0.5 * float(free.norm()))
    assert torch.allclose(short, 0.5 * free, rtol=1e-4)


def test_the_length_allowed_follows_the_logit_scale(backbone: Any) -> None:
    resolved = Schedule.resolve(TuneConfig(method="coop"), 16, 4, backbone)
    assert resolved.clip_norm == pytest.approx(get_method("coop").recipe.clip_norm * backbone.logit_scale / 100)


def test_every_image_is_seen_once_an_epoch_in_random_views(backbone: Any) -> None:
    stub = PixelStub(backbone)
    given = TrainData(torch.arange(N) % 3, V, pixels=stub)
    trainer(make(toys.OnPixels, backbone), backbone, data=given, schedule=schedule(6)).run()
    epochs = [stub.asked[i : i + 4] for i in range(0, len(stub.asked), 4)]
    assert len(epochs) == 6
    orders = [[row for rows, _ in epoch for row in rows] for epoch in epochs]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert {view for epoch in epochs for _, views in epoch for view in views} == set(range(V))


def test_hooks_are_called_in_order(backbone: Any) -> None:
    method = make(toys.Hooked, backbone)
    found = trainer(method, backbone, schedule=schedule(3)).run()
    assert method.calls == [("fit", (N, V, backbone.d), N), ("epoch", 1, 3), ("epoch", 2, 3), ("epoch", 3, 3), ("end",)]
    assert "keep" in found.history[0]
    assert found.history[-1]["loss"] == pytest.approx(
        sum(found.history[-1][name] for name in ("ce", "lmc", "mmi", "keep")), rel=1e-5
    )


def test_own_losses_count_and_gradients_can_be_combined_by_hand(backbone: Any) -> None:
    shifts = []
    for cls in (toys.Plain, toys.TaskOnly, toys.Hooked):
        method = make(cls, backbone)
        trainer(method, backbone).run()
        shifts.append(method.shift.detach())
    assert torch.allclose(shifts[0], shifts[1], atol=1e-6)
    assert not torch.allclose(shifts[0], shifts[2], atol=1e-4)


def test_heads_and_closed_forms_need_no_text(backbone: Any) -> None:
    head = trainer(make(toys.Head, backbone), backbone, "none")
    assert head.run().geometry[0]["duality"] is None
    closed = make(toys.ClosedForm, backbone)
    done = trainer(closed, backbone, "none").run()
    assert done.steps == 0
    assert closed.weight.abs().sum() > 0


@pytest.mark.parametrize("cls", [toys.OnTokens, toys.OnPixels])
def test_text_from_tokens_and_a_learned_image_path(cls: type[Method], backbone: Any) -> None:
    given = data(backbone, tokens=True)
    if cls is toys.OnPixels:
        given = TrainData(given.labels, V, pixels=PixelStub(backbone))
    method = make(cls, backbone)
    run = trainer(method, backbone, data=given, schedule=schedule(3))
    found = run.run()
    assert method.shift.abs().sum() > 0
    assert {"lmc", "mmi"} <= found.history[0].keys()
    if cls is toys.OnPixels:
        assert found.geometry[0]["duality"] is None  # no class has a mean before the first batch
        assert run.loss.moving is not None
        assert bool(run.loss.moving.seen.all())
    assert found.geometry[-1]["duality"] is not None


def test_geometry_is_measured_at_the_start_at_the_end_and_not_too_often(backbone: Any) -> None:
    found = trainer(make(toys.Toy, backbone), backbone, schedule=schedule(120, batch_size=N)).run()
    epochs = [entry["epoch"] for entry in found.geometry]
    assert len(epochs) <= MAX_GEOMETRY
    assert epochs[0] == 0
    assert epochs[-1] == 120
    assert len(epochs) == len(set(epochs)) > 40


class StopAt:
    """Raises at the n-th look."""

    def __init__(self, n: int, error: type[Exception]) -> None:
        self.left, self.error = n, error

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error("stop")


@pytest.mark.parametrize("cls", [None, toys.OnPixels])
@pytest.mark.parametrize("stop_at", [2, 5, 8, 9])
def test_a_drained_stage_resumes_bit_for_bit(backbone: Any, stop_at: int, cls: type[Method] | None) -> None:
    cls = cls or get_method("coop")

    def build(checkpointer: Checkpointer | None, control: Any = None) -> Trainer:
        given = TrainData(torch.arange(N) % 3, V, pixels=PixelStub(backbone)) if cls is toys.OnPixels else None
        return trainer(make(cls, backbone), backbone, data=given, checkpointer=checkpointer, control=control)

    whole = build(None)
    expected = whole.run()
    store = MemoryCheckpointStore()
    with pytest.raises(Drained):
        build(Checkpointer(store, "key"), StopAt(stop_at, Drained)).run()
    second = build(Checkpointer(store, "key"))
    found = second.run()
    assert found.steps == expected.steps - (stop_at - 1)
    for name, tensor in whole.method.state_dict().items():
        assert torch.equal(tensor, second.method.state_dict()[name])
    assert found.history == expected.history
    assert found.geometry == expected.geometry


def test_a_killed_stage_resumes_from_the_last_timed_checkpoint(backbone: Any) -> None:
    store, clock = MemoryCheckpointStore(), iter(range(1000))
    keeper = Checkpointer(store, "key", interval_s=5, clock=lambda: float(next(clock)))
    with pytest.raises(Cancelled):  # cancelled saves nothing: what is left is the timed one
        trainer(make(get_method("coop"), backbone), backbone, checkpointer=keeper, control=StopAt(12, Cancelled)).run()
    whole, second = (make(get_method("coop"), backbone) for _ in range(2))
    trainer(whole, backbone).run()
    resumed = trainer(second, backbone, checkpointer=Checkpointer(store, "key"))
    assert 0 < resumed.run().steps < 16
    assert torch.equal(whole.ctx, second.ctx)


def test_a_foreign_or_broken_checkpoint_is_ignored(backbone: Any) -> None:
    store = MemoryCheckpointStore()
    keeper = Checkpointer(store, "key")
    with pytest.raises(Drained):
        trainer(make(get_method("coop"), backbone), backbone, checkpointer=keeper, control=StopAt(6, Drained)).run()
    good = store.data
    assert good is not None
    for key, blob in (("other", good), ("key", good[:-40]), ("key", b"rubbish"), ("key", b"")):
        store.data = blob
        found = trainer(make(get_method("coop"), backbone), backbone, checkpointer=Checkpointer(store, key)).run()
        assert found.steps == 16


def test_one_bad_loss_goes_back_and_on(backbone: Any) -> None:
    method = make(toys.SometimesNaN, backbone)
    method.bad_calls = frozenset({6})
    found = trainer(method, backbone).run()
    assert found.fp32_retries == 1
    assert found.steps == 16
    assert torch.isfinite(method.shift).all()


def test_going_back_undoes_the_step_that_led_there(backbone: Any) -> None:
    method = make(toys.SometimesNaN, backbone)
    method.bad_calls = frozenset({3})
    run = trainer(method, backbone, schedule=schedule(1, batch_size=2))
    states = []
    remember = run._remember

    def spy() -> None:
        states.append(method.shift.detach().clone())
        remember()

    run._remember = spy  # type: ignore[method-assign]
    run.run()
    assert torch.equal(states[1], states[2])  # before step 2, and before step 3 after going back


def test_a_reduced_precision_backbone_goes_on_in_fp32(backbone: Any) -> None:
    from tests.support.tiny_clip import tiny_backbone

    reduced = tiny_backbone("clip", precision="bf16")
    method = make(toys.SometimesNaN, reduced)
    method.bad_calls = frozenset({2})
    trainer(method, reduced).run()
    assert method.backbone.precision == "fp32"
    assert reduced.precision == "bf16"


def test_a_loss_that_stays_bad_is_an_error_that_says_what_to_do(backbone: Any) -> None:
    method = make(toys.SometimesNaN, backbone)
    method.bad_calls = frozenset(range(5, 100))
    with pytest.raises(NonFiniteLossError, match=r"step 5 \(epoch 2\).*[Ll]earning rate"):
        trainer(method, backbone).run()
    assert torch.isfinite(method.shift).all()


def test_diverging_from_a_huge_learning_rate_is_an_error(backbone: Any) -> None:
    method = make(get_method("coop"), backbone)
    with pytest.raises(NonFiniteLossError):
        trainer(method, backbone, schedule=schedule(20, lr=1e38)).run()


def test_memory_running_out_halves_the_chunk_and_goes_on(backbone: Any) -> None:
    method, plain = make(toys.Hungry, backbone), make(toys.Toy, backbone)
    found = trainer(method, backbone).run()
    assert found.chunk_halvings == 1  # 3 prompts, then 1
    assert method.chunk == 1
    trainer(plain, backbone).run()
    assert torch.equal(method.shift, plain.shift)  # the step was repeated, not skipped


def test_a_look_at_old_images_that_does_not_fit_is_tried_in_smaller_chunks(backbone: Any) -> None:
    method, given = make(toys.Hungry, backbone), data(backbone)
    assert given.features is not None
    old = ImageBatch(features=given.features[:4, 0])
    guard = NullSpace(lambda _: old, 1.0, 0)
    found = trainer(method, backbone, data=given, guard=guard).run()
    assert found.chunk_halvings == 1
    assert guard.rank > 0


def test_memory_that_never_suffices_is_an_error(backbone: Any) -> None:
    method = make(toys.Hungry, backbone)
    method.fits = 0
    with pytest.raises(OutOfMemoryError, match="batch_size"):
        trainer(method, backbone).run()


def test_other_runtime_errors_are_not_swallowed(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(toys.Toy, backbone)
    monkeypatch.setattr(method, "classification_loss", lambda *_: (_ for _ in ()).throw(RuntimeError("shape")))
    with pytest.raises(RuntimeError, match="shape"):
        trainer(method, backbone).run()


def test_control_is_checked_before_every_step(backbone: Any) -> None:
    class Count:
        looks = 0

        def check(self) -> None:
            self.looks += 1

    count = Count()
    trainer(make(toys.Toy, backbone), backbone, control=count).run()
    assert count.looks == 16


def test_progress_has_loss_accuracy_epoch_geometry_and_an_end(backbone: Any) -> None:
    seen: list[Progress] = []
    meter = Meter(seen.append)
    meter.expect("tuning", 16)
    trainer(make(toys.Toy, backbone), backbone, meter=meter).run()
    assert seen[-1].step == seen[-1].total_steps == 16
    assert seen[-1].eta_seconds == 0
    assert all(one.loss is not None and 0 <= (one.accuracy or 0) <= 1 for one in seen[1:])
    assert [one.epoch for one in seen if one.geometry is not None] == [0, 1, 2, 3, 4]  # before the first step, too
    assert all((one.picture is None) == (one.geometry is None) for one in seen)


def test_class_means_come_from_all_views_and_are_fixed(backbone: Any) -> None:
    given = data(backbone)
    run = trainer(make(toys.Toy, backbone), backbone, data=given)
    assert given.features is not None
    expected = given.features[given.labels == 1].mean(dim=(0, 1))
    assert run.loss.fixed_means is not None
    assert torch.allclose(run.loss.fixed_means[1], expected, atol=1e-6)


def test_one_class_is_refused(backbone: Any) -> None:
    cls = get_method("coop")
    with pytest.raises(ConfigError, match="at least 2 classes"):
        cls(cls.Config(), backbone, CLASSES[:1], generator=torch.Generator())


def test_logit_adjustment_adds_the_log_of_each_class_s_share(backbone: Any) -> None:
    from dataclasses import replace

    method, given = make(get_method("coop"), backbone), data(backbone)
    plain = trainer(method, backbone, "none", data=given)
    adjusted = trainer(method, backbone, "none", data=given, schedule=replace(schedule(), logit_adjustment=2.0))
    rows = torch.arange(N)
    batch = given.batch(rows, torch.zeros_like(rows))
    output = method(batch)
    shares = torch.bincount(given.labels).float() / N
    expected = torch.nn.functional.cross_entropy(output.logits + 2.0 * shares.log(), given.labels)
    torch.testing.assert_close(adjusted.loss.terms(batch, output)[0], expected)
    assert not torch.equal(plain.loss.terms(batch, output)[0], expected)


@pytest.mark.parametrize(
    ("name", "config"), [("tip_adapter", {"finetune": True}), ("promptsrc", {}), ("maple", {}), ("dpt", {})]
)
def test_methods_with_more_to_remember_resume_bit_for_bit(name: str, config: dict[str, Any], backbone: Any) -> None:
    class StopAt:
        def __init__(self, step: int) -> None:
            self.left = step

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Drained("stop")

    def run(store: MemoryCheckpointStore | None, stop_at: int) -> dict[str, torch.Tensor]:
        given = data(backbone)
        if get_method(name).image_input == "pixels":
            given = TrainData(given.labels, V, pixels=PixelStub(backbone))  # type: ignore[arg-type]
        recipe = Schedule.resolve(TuneConfig.from_dict({"method": name, "epochs": 3, "batch_size": 4}), N, 3)
        made = make(get_method(name), backbone, **config)
        chosen = "none" if not get_method(name).moves_features else "npt"
        Trainer(
            made,
            given,
            regularizer(backbone, chosen),
            recipe,
            control=StopAt(stop_at),
            checkpointer=Checkpointer(store, "k"),
        ).run()
        return {key: value.clone() for key, value in made.state_dict().items()}

    whole = run(None, 10_000)
    store = MemoryCheckpointStore()
    with pytest.raises(Drained):
        run(store, 7)
    resumed = run(store, 10_000)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
