"""The demo's files: written, read, refused when broken; a stem folded is the stem that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional as F

from npt_core.clip.demo import training, weights
from npt_core.clip.demo.stem import build_demo_model, fold_stem
from npt_core.errors import BackboneUnavailableError

IDS = (0, 7, 320, 1125, 49406, 49407)


def tiny_config(**more: Any) -> dict[str, Any]:
    config = training.model_config()
    return config | {
        "embed_dim": 16,
        "stem": [4, 8, 8, 16],
        "vision_cfg": config["vision_cfg"] | {"layers": 1, "width": 32, "head_width": 16},
        "text_cfg": config["text_cfg"] | {"layers": 1, "width": 32, "heads": 2},
    } | more  # fmt: skip


def trained(config: dict[str, Any]) -> open_clip.CLIP:
    torch.manual_seed(0)
    model = training.build_model(config, len(IDS))
    model.train()
    for _ in range(3):  # moves the running statistics away from their start
        model.visual(torch.randn(8, 3, 64, 64) * 2 + 1)
    return model.eval()


def test_folding_the_stem_changes_nothing() -> None:
    config = tiny_config()
    model = trained(config)
    plain = build_demo_model(config, vocab_size=len(IDS)).eval()
    plain.load_state_dict(fold_stem(model))
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(plain.visual(pixels), model.visual(pixels), rtol=1e-4, atol=1e-5)
    assert isinstance(plain.visual, open_clip.transformer.VisionTransformer)


def test_round_trip(tmp_path: Path) -> None:
    config = tiny_config()
    state = fold_stem(trained(config))
    weights.write_demo_weights(tmp_path, config, state, IDS)
    (tmp_path / "model_card.md").write_text("# Card")
    read = weights.load_demo_weights(tmp_path)
    assert read.config == json.loads(json.dumps(config))
    assert read.trained_token_ids == frozenset(IDS)
    assert read.card == "# Card"
    model = build_demo_model(read.config)
    model.load_state_dict(read.state_dict)
    table = read.state_dict["token_embedding.weight"]
    assert table.shape == (49408, 32)
    torch.testing.assert_close(table[list(IDS)], state["token_embedding.weight"].half().float())
    torch.testing.assert_close(table[5], table[list(IDS)].mean(0))
    for name, tensor in state.items():
        if name != "token_embedding.weight":
            torch.testing.assert_close(read.state_dict[name], tensor.half().float())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model_card.md", "weights.safetensors"]


def test_short_text_rows_give_what_the_whole_context_gives() -> None:
    config = tiny_config()
    model = build_demo_model(config).eval()
    tokens = open_clip.SimpleTokenizer(context_length=32)(["a photo of a 7.", "star"])
    with torch.no_grad():
        whole = model.encode_text(tokens, normalize=True)
        torch.testing.assert_close(training.encode_text(model, tokens[:, :9]), whole)
    assert F.normalize(whole, dim=-1).shape == (2, 16)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneUnavailableError, match=r"config\.json"):
        weights.load_demo_weights(tmp_path)
    config = tiny_config()
    weights.write_demo_weights(tmp_path, config, fold_stem(trained(config)), IDS)
    whole = (tmp_path / weights.WEIGHTS).read_bytes()
    (tmp_path / weights.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackboneUnavailableError, match="cannot be read"):
        weights.load_demo_weights(tmp_path)
    (tmp_path / weights.WEIGHTS).unlink()
    with pytest.raises(BackboneUnavailableError, match="pretrain"):
        weights.load_demo_weights(tmp_path)
    (tmp_path / weights.CONFIG).write_text("[]")
    with pytest.raises(BackboneUnavailableError, match="lacks"):
        weights.load_demo_weights(tmp_path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    config = tiny_config()
    state = fold_stem(trained(config))
    with pytest.raises(ValueError, match="rows for 5 ids"):
        weights.write_demo_weights(tmp_path, config, state, IDS[:5])
    with pytest.raises(ValueError, match="half precision"):
        weights.write_demo_weights(tmp_path, config, state | {"logit_scale": torch.tensor(1e9)}, IDS)
    assert not list(tmp_path.iterdir())


def test_the_shipped_files() -> None:
    shipped = weights.load_demo_weights()
    model = build_demo_model(shipped.config)
    model.load_state_dict(shipped.state_dict)
    size = (weights.FOLDER / weights.WEIGHTS).stat().st_size
    assert size <= weights.MAX_BYTES
    known = open_clip.SimpleTokenizer().encode("a photo of a striped red star seven 7")
    assert set(known) <= shipped.trained_token_ids
    assert "photographs" in shipped.card
