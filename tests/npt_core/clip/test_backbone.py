from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from npt_core.clip import Backbone, load_backbone
from npt_core.clip.demo import weights as demo_weights
from npt_core.errors import (
    BackboneUnavailableError,
    ConfigError,
    FingerprintMismatchError,
    PromptError,
    PromptLengthError,
    UnknownBackboneError,
    UnsupportedBackboneError,
)
from tests.npt_core.clip.conftest import ARCH
from tests.support.tiny_clip import build, tiny_backbone, tiny_config


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def weights(archs: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(dict(build(archs[ARCH], seed=7).state_dict()), path)
    return path


# --- published weights ------------------------------------------------------------------------------------------------


def test_published_weights(publish: Any, weights: Path) -> None:
    backbone = load_backbone(publish("some_tag", weights), device="cpu")
    assert backbone.name == f"{ARCH}/some_tag"
    local = load_backbone(f"local:mine={ARCH}@{weights}", device="cpu")
    assert backbone.fingerprint == local.fingerprint, "where the weights came from does not matter"
    torch.testing.assert_close(backbone.encode_texts(["a cat"]), local.encode_texts(["a cat"]))


def test_published_preprocessing_and_activation_are_followed(publish: Any, weights: Path) -> None:
    plain = load_backbone(publish("plain", weights), device="cpu")
    facts = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "resize_mode": "squash"}
    other = load_backbone(publish("other", weights, **facts), device="cpu")
    assert (other.preprocess.mean, other.preprocess.interpolation) == ((0.5, 0.5, 0.5), "bilinear")
    assert other.preprocess.resize_mode == "squash"
    quick = load_backbone(publish("quick", weights, quick_gelu=True), device="cpu")
    assert type(quick._model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert len({b.fingerprint for b in (plain, other, quick)}) == 3


def test_local_file_takes_the_preprocessing_all_published_weights_share(publish: Any, weights: Path) -> None:
    publish("one", weights, mean=(0.5, 0.5, 0.5), interpolation="bilinear")
    publish("two", weights, mean=(0.5, 0.5, 0.5), interpolation="bicubic")
    local = load_backbone(f"local:mine={ARCH}@{weights}", device="cpu")
    assert local.preprocess.mean == (0.5, 0.5, 0.5)
    assert local.preprocess.interpolation == "bicubic", "where they differ, the default"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B-16/laion2b_s34b_b8k", "ViT-B-16/laion2b_s34b_b88k"),
        ("ViT-B-61/openai", "ViT-B-16"),
        ("vit-b-16/openai", "ViT-B-16"),
    ],
)
def test_unknown_names_list_close_ones(name: str, hint: str) -> None:
    with pytest.raises(UnknownBackboneError, match=re.escape(hint)):
        load_backbone(name)


@pytest.mark.parametrize("name", ["coca_ViT-B-32/laion2b_s13b_b90k", "roberta-ViT-B-32/laion2b_s12b_b32k"])
def test_towers_without_prompts_are_refused_before_any_download(name: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=re.escape(repr(name))):
        load_backbone(name)


@pytest.mark.parametrize("name", ["ViT-B-32/laion2b_s34b_b79k", "hf-hub:some-org/some-model", "RN50/yfcc15m"])
def test_without_network_it_says_what_to_do(name: str, offline: None, tmp_path: Path) -> None:
    with pytest.raises(BackboneUnavailableError) as refused:
        load_backbone(name, cache_dir=tmp_path)
    message = str(refused.value)
    assert repr(name) in message
    assert "local:NAME=ARCH@FILE" in message
    assert str(tmp_path) in message


def test_device_and_precision_are_checked_before_the_weights(tmp_path: Path) -> None:
    for wish in ({"device": "cuda:99"}, {"precision": "fp12"}):
        with pytest.raises(ConfigError):
            load_backbone("ViT-B-32/laion2b_s34b_b79k", cache_dir=tmp_path, **wish)  # type: ignore[arg-type]


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_hub(archs: dict[str, Any], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_cfg": archs[ARCH], "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))

    def download(model_id: str, filename: str | None = None, **_: Any) -> str:
        assert model_id == "org/name"
        return str(tmp_path / (filename or "weights.safetensors"))

    for module in ("open_clip.factory", "npt_core.clip.loading"):
        monkeypatch.setattr(f"{module}.download_pretrained_from_hf", download)
    backbone = load_backbone("hf-hub:org/name", device="cpu")
    assert backbone.name == "hf-hub:org/name"
    assert backbone.preprocess.std == (0.25, 0.25, 0.25)
    local = load_backbone(f"local:mine={ARCH}@{weights}", device="cpu")
    torch.testing.assert_close(backbone.encode_texts(["a cat"]), local.encode_texts(["a cat"]))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_config("coca")}))
    with pytest.raises(UnsupportedBackboneError, match="CoCa"):
        load_backbone("hf-hub:org/name")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(BackboneUnavailableError, match="model_cfg"):
        load_backbone("hf-hub:org/name")


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("clip")
    model = build(config, seed=3)
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.35, 0.35, 0.35], "interpolation": "bicubic"}
    ids = frozenset(open_clip.SimpleTokenizer().encode("red circle"))
    given = SimpleNamespace(
        config={**config, "preprocess": preprocess}, state_dict=model.state_dict(), trained_token_ids=ids, card="# Card"
    )
    monkeypatch.setattr(demo_weights, "load_demo_weights", lambda: given)
    backbone = load_backbone("demo", device="cpu")
    assert (backbone.name, backbone.knows_photographs) == ("demo", False)
    assert "no photographs" in backbone.description
    assert backbone.preprocess.std == (0.35, 0.35, 0.35)
    assert backbone.unseen_words("red square") == ["square"]
    torch.testing.assert_close(
        backbone.encode_images(torch.zeros(1, 3, 32, 32)), model.encode_image(torch.zeros(1, 3, 32, 32), normalize=True)
    )


def test_the_demo_that_is_shipped() -> None:
    b = load_backbone("demo", device="cpu")
    assert b.text_path == "fast"
    assert b.image.prompt_refusal is None
    assert b.unseen_words("a photo of a seven") == []
    assert b.unseen_words("a photo of a zebra") == ["zebra"]
    assert len({load_backbone("demo", device="cpu").fingerprint, b.fingerprint}) == 1


# --- what every backbone does -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "custom", "resnet", "siglip"])
def test_facts(kind: str) -> None:
    b = tiny_backbone(kind)
    facts = json.loads(json.dumps(b.describe()))
    assert facts["fingerprint"] == b.fingerprint
    assert re.fullmatch(r"[0-9a-f]{64}", b.fingerprint)
    assert facts["text_path"] == ("reference" if kind == "siglip" else "fast")
    assert facts["image_prompts"] is (kind != "resnet")
    assert b.image_size == (32, 32)
    assert b.logit_scale == pytest.approx(1 / 0.07)
    assert b.nbytes > 49408 * 32 * 4
    assert not any(p.requires_grad for p in b._model.parameters())
    assert not b._model.training


def test_texts() -> None:
    b = tiny_backbone("clip")
    assert b.encode_texts([]).shape == (0, 16)
    many = [f"number {i}" for i in range(300)]  # more than are computed at once
    features = b.encode_texts(many)
    assert features.shape == (300, 16)
    torch.testing.assert_close(features[[0, 299]], b.encode_texts([many[0], many[299]]))
    with pytest.raises(PromptLengthError, match="takes 24"):
        b.encode_texts(["ok", "word " * 23])
    b.encode_texts(["word " * 22])
    with pytest.raises(PromptError, match="keeps nothing"):
        b.encode_texts(["  "])


def test_fingerprint_mismatch_is_refused() -> None:
    b = tiny_backbone("clip")
    b.require_fingerprint(b.fingerprint, what="Model 'm1'")
    with pytest.raises(FingerprintMismatchError, match="Model 'm1' was made with other weights") as refused:
        b.require_fingerprint("0" * 64, what="Model 'm1'")
    assert "'tiny-clip'" in str(refused.value)
    assert "tune again" in str(refused.value)


def test_several_at_once_do_not_share_anything() -> None:
    one, two = tiny_backbone("clip", seed=0), tiny_backbone("clip", seed=1)
    assert one.fingerprint != two.fingerprint
    assert not torch.allclose(one.encode_texts(["a cat"]), two.encode_texts(["a cat"]))


def test_the_package_reads_names_without_torch() -> None:
    """`parse_backbone` serves the light processes of the service, so it must stay light."""
    import subprocess
    import sys

    code = "import sys, npt_core.clip as c; c.parse_backbone('demo'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Backbone.__name__ in dir(__import__("npt_core.clip").clip)
