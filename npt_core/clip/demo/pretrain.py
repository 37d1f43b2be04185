"""Train the demo backbone from nothing: `python -m npt_core.clip.demo.pretrain --out DIR`.

Every step draws its own pictures from (seed, step), so a run that was stopped goes on with `--resume` as if it had not
been, bit by bit on the same machine with the same number of threads. Checkpoints lie in DIR as `checkpoint.pt` (plain
tensors and numbers). At the end DIR holds `weights.safetensors` and `config.json`, as `weights.py` reads them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from torch import nn

from npt_core.clip.demo import draw, training
from npt_core.clip.demo.fonts import split_fonts
from npt_core.clip.demo.real_digits import load_half
from npt_core.clip.demo.stem import fold_stem
from npt_core.clip.demo.vocabulary import DIGIT_NAMES
from npt_core.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run, apart from `steps`, which may change on resuming before the decay starts."""

    steps: int = 950
    batch: int = 128
    captions: int = 64
    start_pictures: int = 512
    seed: int = 0
    lr: float = 2e-3
    lr_hidden: float = 0.025
    warm_up: int = 40
    easy_steps: int = 250
    decay_share: float = 0.4
    weight_decay: float = 0.05
    clip: float = 1.0


class Run:
    """A model on its way: one call of `step` draws, learns and counts."""

    def __init__(self, plan: Plan, config: dict[str, Any], families: draw.Families | None = None) -> None:
        self.plan, self.config = plan, config
        self.families = split_fonts("train") if families is None else families
        self.tokenizer = training.CompactTokenizer()
        with torch.random.fork_rng(devices=[]):
            # open_clip initialises from the global generator.
            torch.manual_seed(plan.seed)
            self.model: CLIP = training.build_model(config, len(self.tokenizer.ids))
        self.model.train()
        rng = np.random.default_rng([plan.seed, 0])
        first = draw.draw_batch(rng, plan.start_pictures, families=self.families)
        training.start_places(self.model)
        training.start_centred(self.model, self.tokenizer, first, rng)
        self.optimisers = training.optimisers(self.model, plan.weight_decay)
        self.done = 0
        self.seconds = 0.0

    def step(self) -> float:
        """One step; returns its loss."""
        plan = self.plan
        rng = np.random.default_rng([plan.seed, 1, self.done])
        ease = max(draw.USUAL, 1 - (1 - draw.USUAL) * self.done / plan.easy_steps)
        pictures = draw.draw_batch(rng, plan.batch, families=self.families, ease=ease)
        # Long captions make the whole batch long, so they come together.
        loss = training.step_loss(
            self.model,
            self.tokenizer,
            pictures,
            rng,
            n_captions=plan.captions,
            long_share=0.5 if self.done % 4 == 3 else 0.0,
        )
        for optimiser, peak in zip(self.optimisers, (plan.lr_hidden, plan.lr), strict=True):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate(self.done, plan.steps, peak, plan.warm_up, plan.decay_share)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=float(np.log(training.MAX_LOGIT_SCALE)))
        self.done += 1
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint; a stop in the middle leaves the one before."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "done": self.done,
            "seconds": self.seconds,
            "plan": asdict(self.plan),
            "config": self.config,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same plan (another number of steps is allowed)."""
        state = torch.load(path, weights_only=True)  # noqa: TID251 - its own checkpoint of a run that was broken off
        ours = asdict(self.plan) | {"steps": None}
        theirs = state["plan"] | {"steps": None}
        if ours != theirs or state["config"] != self.config:
            raise ConfigError(
                f"{path} belongs to another run: it was made with {state['plan']}, this is {asdict(self.plan)}."
            )
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.done, self.seconds = int(state["done"]), float(state["seconds"])


def score_sets(n: int, seed: int) -> list[training.ScoreSet]:
    """What is printed while training: drawn sets, and the half of the real digits that one may look at."""
    look = load_half("look")
    rgb = np.repeat(look.images[..., None], 3, axis=-1)
    return [
        *training.drawn_score_sets(n, seed),
        training.ScoreSet("real digits (look)", rgb, look.labels, DIGIT_NAMES),
    ]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def train(run: Run, out: Path, *, score_every: int, save_every: int, stop_at: int | None = None) -> None:
    """Run to the end of the plan (or `stop_at`), printing and saving on the way."""
    sets = score_sets(540, 10_000 + run.plan.seed)
    plan, checkpoint = run.plan, out / "checkpoint.pt"
    started, first, mean = time.monotonic(), run.done, 0.0
    before = run.seconds
    end = min(plan.steps, stop_at or plan.steps)
    while run.done < end:
        loss = run.step()
        mean = loss if run.done == first + 1 else 0.95 * mean + 0.05 * loss
        run.seconds = before + time.monotonic() - started
        if run.done % 20 == 0:
            speed = (run.done - first) / (time.monotonic() - started)
            scale = float(run.model.logit_scale.detach().exp())
            _say(
                f"step {run.done}/{plan.steps} loss {mean:.3f} scale {scale:.1f} {1 / speed:.2f} s/step "
                f"left {(plan.steps - run.done) / speed / 60:.1f} min"
            )
        if run.done % score_every == 0 or run.done == end:
            scores = ", ".join(f"{s.title} {training.zero_shot(run.model, run.tokenizer, s):.3f}" for s in sets)
            _say(f"step {run.done} zero-shot: {scores}")
        if run.done % save_every == 0 or run.done == end:
            run.save(checkpoint)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="pretrain", description="Train the demo backbone on drawn pictures.")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the finished files")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--lr", type=float, default=Plan.lr)
    parser.add_argument("--resume", action="store_true", help="go on from DIR/checkpoint.pt where there is one")
    parser.add_argument("--score-every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--stop-at", type=int, default=None, help="stop after this step, to go on later")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(Plan(steps=options.steps, batch=options.batch, seed=options.seed, lr=options.lr), training.model_config())
    checkpoint = options.out / "checkpoint.pt"
    if options.resume and checkpoint.is_file():
        run.load(checkpoint)
        _say(f"going on after step {run.done}")
    parameters = sum(p.numel() for p in run.model.parameters())
    _say(f"{parameters / 1e6:.2f} M parameters, {len(run.tokenizer.ids)} tokens, {len(run.families)} font families")
    train(run, options.out, score_every=options.score_every, save_every=options.save_every, stop_at=options.stop_at)
    if run.done >= run.plan.steps:
        from npt_core.clip.demo.weights import write_demo_weights

        write_demo_weights(options.out, run.config, fold_stem(run.model), run.tokenizer.ids)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
