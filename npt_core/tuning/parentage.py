"""What a tuning does for the classes of its parent: spares them, takes back what cost too much, gives account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from npt_core.continual.memory import remember
from npt_core.continual.nullspace import PROBE_IMAGES, PROBE_PICTURES, NullSpace
from npt_core.methods import ImageBatch, ImageInput, Method
from npt_core.mixture import mixed
from npt_core.report.statistics import wilson_interval
from npt_core.tuning.evaluate import paired
from npt_core.tuning.features import PixelSource

if TYPE_CHECKING:
    from npt_core.tuning.images import EncodedImages
    from npt_core.tuning.protocols import EvaluationPlan
    from npt_core.tuning.stages import Outcome, Stages
    from npt_core.tuning.task import Task

SHARES = tuple(tenth / 10 for tenth in range(10, -1, -1))
"""Of what was learned, tried from all of it downwards until the bound holds."""


@dataclass
class Kept:
    """What became of the parent's classes in one stage.

    Attributes:
        share: Of what was learned; the rest is the parent's parameters. 1 where nothing had to be taken back.
        held: Whether `max_old_loss` holds on the images it is kept by; None where there is no bound or none of them.
        directions: That the null space was kept to at the last look.
    """

    share: float = 1.0
    held: bool | None = None
    directions: int = 0


def guard_of(task: Task, images: EncodedImages) -> tuple[NullSpace | None, PixelSource | None]:
    """Return what keeps steps to the null space, and a source of pixels to close, where the task wants one."""
    if task.keeping not in ("null-space", "both"):
        return None, None
    indices = list(task.old.spared)
    device, strength, seed = task.backbone.device, task.config.keep_strength, task.config.seed
    if not indices:
        assert task.parent is not None  # noqa: S101 - for the type checker
        assert task.parent.memory is not None  # noqa: S101
        memory = task.parent.memory.to(device)
        return NullSpace(lambda generator: ImageBatch(features=memory), strength, seed), None
    source, at_once = None, PROBE_IMAGES
    if task.method_class.image_input is ImageInput.PIXELS:
        source, at_once = PixelSource(task.backbone, task.dataset, indices), PROBE_PICTURES
    rows = torch.tensor(images.plain_rows_of(indices))

    def draw(generator: torch.Generator) -> ImageBatch:
        some = torch.randperm(len(rows), generator=generator)[:at_once]
        return ImageBatch(
            features=images.plain[rows[some]].to(device),
            tokens=None if images.plain_tokens is None else images.plain_tokens[rows[some]].to(device),
            pixels=None if source is None else source.batch(some.tolist(), [0] * len(some)),
        )

    return NullSpace(draw, strength, seed), source


def remembered(stages: Stages, plan: EvaluationPlan) -> Tensor | None:
    """Return what is remembered of the images of a plan and of those behind the parent; see `continual.memory`."""
    task, images = stages.task, stages.images
    fresh = [i for i in plan.ship if task.dataset.samples[i].sha256 not in task.seen]
    before = task.parent.memory if task.parent is not None else None
    memory = remember(images.plain[images.plain_rows_of(fresh)], before, float(len(task.seen)))
    return memory if len(memory) else None


class Keeper:
    """Measures the parent's classes on old images, and holds `max_old_loss`.

    Args:
        stages: With the task, whose parent there is.
    """

    def __init__(self, stages: Stages) -> None:
        self.stages, self.task = stages, stages.task
        self._allowed: float | None = None

    # --- the bound ----------------------------------------------------------------------------------------------------

    def settle(self, method: Method, start: Mapping[str, Tensor]) -> Kept:
        """Take back what was learned, as far as the bound asks for it; the method is changed in place.

        Between parent and tuned lie a * tuned + (1 - a) * parent, parameter by parameter. The largest a of a grid is
        taken that holds the bound on the old images set apart for it; where none does, the one that loses least.

        Args:
            method: After its tuning.
            start: Its state before the first step.

        Source: after WiSE-FT, arXiv 2109.01903.
        """
        bound, indices = self.task.config.max_old_loss, self.task.old.choose
        if bound is None or not indices:
            return Kept()
        least = self._before(indices) - bound
        end = {name: value.detach().clone() for name, value in method.state_dict().items()}
        movable = [name for name in end if end[name].is_floating_point() and start[name].shape == end[name].shape]
        best = (-1.0, 1.0)
        for share in SHARES if len(movable) == len(end) else SHARES[:1]:
            _put(method, {name: mixed(end[name], start[name], share) if share < 1 else end[name] for name in end})
            found = self._accuracy(method, indices)
            if found >= least - 1e-9:
                return Kept(share, True)
            best = max(best, (found, share))
        share = best[1]
        _put(method, {name: mixed(end[name], start[name], share) if share < 1 else end[name] for name in end})
        return Kept(share, False)

    def _before(self, indices: Sequence[int]) -> float:
        if self._allowed is None:
            self._allowed = float(_right(self.parent_logits(indices), self.task.labels(indices)).double().mean())
        return self._allowed

    def _accuracy(self, method: Method, indices: Sequence[int]) -> float:
        return float(_right(self.logits(method, indices), self.task.labels(indices)).double().mean())

    # --- answers for old images ---------------------------------------------------------------------------------------

    def logits(self, method: Method, indices: Sequence[int]) -> Tensor:
        """Return the (n, K) answers of a method, zero-shot's share among them."""
        scores = self.stages.logits(method, indices)
        return mixed(scores, self.stages.zero_shot_logits(indices), self.task.tuned_share)

    def parent_logits(self, indices: Sequence[int]) -> Tensor:
        """Return the parent's (n, K_old) answers among its own classes, as it gives them."""
        parent = self.task.parent
        assert parent is not None  # noqa: S101 - for the type checker
        scores = self.stages.logits(parent.method, indices)
        return mixed(scores, self.stages.zero_shot_logits(indices)[:, : scores.shape[1]], parent.tuned_share)

    # --- the account --------------------------------------------------------------------------------------------------

    def account(self, outcome: Outcome, tuned: Mapping[int, Tensor]) -> dict[str, Any]:
        """Return what the report says of the parent's classes, JSON-able, and warn where they lost too much.

        Args:
            outcome: What is shipped.
            tuned: (K,) logits of the measured prompt by image; old accuracy falls back on them.
        """
        task, parent = self.task, self.task.parent
        assert parent is not None  # noqa: S101 - for the type checker
        old = {one.label for one in parent.method.classes}
        accuracy, how = self._old_accuracy(outcome, tuned)
        new = [i for i in tuned if task.dataset.samples[i].label not in old]
        bound = {
            "max_old_loss": task.config.max_old_loss,
            "kept_by": len(task.old.choose),
            "share": outcome.kept.share,
            "held": outcome.kept.held,
        }
        self._warn(accuracy, bound)
        return {
            "id": task.config.parent,
            "old_classes": [one.label for one in task.classes if one.label in old],
            "new_classes": [one.label for one in task.classes if one.label not in old],
            "old_accuracy": accuracy,
            "measured": how,
            "new_accuracy": _told(_right(torch.stack([tuned[i] for i in new]), task.labels(new))) if new else None,
            "protection": {
                "asked": task.config.keep_old,
                "used": task.keeping,
                "replayed": len(task.old.replay),
                "directions": outcome.kept.directions,
                "strength": task.config.keep_strength if task.keeping in ("null-space", "both") else None,
            },
            "bound": bound,
        }

    def _old_accuracy(self, outcome: Outcome, tuned: Mapping[int, Tensor]) -> tuple[dict[str, Any] | None, str]:
        """Return accuracies before, at the start and after, and a sentence on what they were measured."""
        task, old = self.task, set()
        assert task.parent is not None  # noqa: S101 - for the type checker
        old = {one.label for one in task.parent.method.classes}
        apart = list(task.old.measure)
        held = [i for i in tuned if task.dataset.samples[i].label in old]
        if apart and (not task.old.seen or not held):
            on, after = apart, self.logits(outcome.method, apart)
            how = f"on {len(on)} images of the parent's data that this tuning did not tune on"
            if task.old.seen:
                how += (
                    f"; the parent was tuned on {task.old.seen} of them, so that both accuracies are too high, and "
                    "their difference is what counts"
                )
            else:
                how += ", and neither did the parent"
        elif held:
            on, after = held, torch.stack([tuned[i] for i in held])
            how = f"on {len(on)} held-out images of the new data set: neither parent nor measured prompt had seen them"
        else:
            return None, (
                "not measured: no image of the parent's classes could be held out, neither of the new data (what the "
                "parent was tuned on does not count) nor of the parent's own data set"
            )
        labels = task.labels(on)
        before, start = self.parent_logits(on), self.logits(task.new_method(), on)
        wide = torch.full_like(after, -torch.inf)
        wide[:, : before.shape[1]] = before
        return {
            "before": _told(_right(before, labels)),
            "at_start": _told(_right(start, labels)),
            "after": _told(_right(after, labels)),
            "change": paired(wide, after, labels)["difference"],
            "p_value": paired(wide, after, labels)["p_value"],
        }, how

    def _warn(self, accuracy: Mapping[str, Any] | None, bound: Mapping[str, Any]) -> None:
        warnings, most = self.stages.log.warnings, bound["max_old_loss"]
        if accuracy is None:
            warnings.append("What the parent's classes lost was not measured: none of its images are at hand.")
        if bound["held"] is False:
            warnings.append(
                f"max_old_loss {most:g} could not be held on {bound['kept_by']} old images: the nearest was kept, with "
                f"{bound['share']:g} of what was learned. Send old images along, or take a larger bound."
            )
        elif most is not None and bound["held"] is None:
            warnings.append(f"max_old_loss {most:g} has no effect: no old images are at hand to keep it by.")
        elif bound["share"] < 1:
            warnings.append(
                f"To hold max_old_loss {most:g}, {1 - bound['share']:.1f} of what was learned was taken back."
            )


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(dim=1) == labels


def _told(right: Tensor) -> dict[str, Any]:
    hits, count = int(right.sum()), len(right)
    interval = wilson_interval(hits, count)
    return {"accuracy": hits / count, "accuracy_interval": None if interval is None else list(interval), "count": count}


@torch.no_grad()
def _put(method: Method, state: Mapping[str, Tensor]) -> None:
    method.load_state_dict(dict(state))
