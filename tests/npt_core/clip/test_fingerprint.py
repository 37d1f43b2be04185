from __future__ import annotations

from typing import Any

import pytest
import torch

from npt_core.clip.fingerprint import architecture, fingerprint
from tests.support.tiny_clip import tiny_backbone, tiny_config

STATE = {"a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor(2.5), "n": torch.tensor(7)}
CONFIG = tiny_config("clip")
PREPROCESS = {"size": [32, 32], "mean": [0.1, 0.2, 0.3]}


def mark(state: Any = STATE, config: Any = CONFIG, preprocess: Any = PREPROCESS, tokenizer: str = "t") -> str:
    return fingerprint(state, config, preprocess, tokenizer)


def test_it_is_pinned() -> None:
    """Stored in every artefact: if this changes, every classifier ever made is refused."""
    assert mark() == "54988344396960f7557833b9987ba130dcf39cd505d3b00b5ecb499135d77819"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_same_numbers_in_another_width_are_the_same(dtype: torch.dtype) -> None:
    assert mark({**STATE, "a.weight": STATE["a.weight"].to(dtype)}) == mark()


def test_order_and_memory_layout_do_not_matter() -> None:
    assert mark(dict(reversed(STATE.items()))) == mark()
    assert mark({**STATE, "a.weight": STATE["a.weight"].t().contiguous().t()}) == mark()
    assert mark({**STATE, "n": STATE["n"].to(torch.int32)}) == mark()


@pytest.mark.parametrize(
    "changed",
    [
        {"state": {**STATE, "b": torch.tensor(2.5000002)}},
        {"state": {**STATE, "a.weight": STATE["a.weight"].reshape(3, 2)}},
        {"state": {**STATE, "c": torch.zeros(0)}},
        {"state": {"a.weigh": STATE["a.weight"], "b": STATE["b"], "n": STATE["n"]}},
        {"state": {**STATE, "n": torch.tensor(7.0)}},
        {"config": tiny_config("quickgelu")},
        {"config": tiny_config("clip", heads=2)},
        {"preprocess": {**PREPROCESS, "mean": [0.1, 0.2, 0.4]}},
        {"tokenizer": "u"},
    ],
)
def test_whatever_changes_a_feature_changes_it(changed: dict[str, Any]) -> None:
    assert mark(**changed) != mark()


def test_what_changes_no_feature_does_not() -> None:
    config = tiny_config("clip", mlp_ratio=4.0, output_tokens=False, hf_tokenizer_name="x")  # defaults, and idle ones
    config["vision_cfg"]["patch_dropout"] = 0.5
    config["quick_gelu"] = False
    config["init_logit_scale"] = 1.0  # the stored value is in the weights
    assert mark(config=config) == mark()
    assert architecture(config) == architecture(CONFIG)


def test_precision_does_not_matter() -> None:
    marks = {tiny_backbone("custom", precision=p).fingerprint for p in ("fp32", "bf16", "fp64")}
    assert len(marks) == 1
    assert marks != {tiny_backbone("custom", seed=1).fingerprint}
