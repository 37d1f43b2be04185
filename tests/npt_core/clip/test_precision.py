from __future__ import annotations

import pytest
import torch
from open_clip.transformer import LayerNormFp32
from torch import nn
from torch.nn import functional as F

from npt_core.clip import PromptTable
from npt_core.clip.precision import resolve_device, resolve_precision
from npt_core.errors import ConfigError
from tests.support.tiny_clip import tiny_backbone


def test_device_auto_prefers_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", ""])
def test_devices_that_are_not_here(device: str) -> None:
    with pytest.raises(ConfigError, match=f"Device {device!r}"):
        resolve_device(device)


def test_precision_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    for capability, wanted in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None, c=capability: c)
        assert resolve_precision("auto", torch.device("cuda")) == wanted


@pytest.mark.parametrize(("precision", "device"), [("fp8", "cpu"), ("fp16", "cpu"), ("", "cuda")])
def test_precisions_that_do_not_work(precision: str, device: str) -> None:
    with pytest.raises(ConfigError, match="Precision"):
        resolve_precision(precision, torch.device(device))


@pytest.mark.parametrize("kind", ["clip", "quickgelu", "custom", "resnet", "siglip"])
def test_bf16_stays_close_to_fp32(kind: str) -> None:
    """Features are fp32, unit norm, and within 1 - cosine of 1e-3 of the fp32 towers; fast and reference likewise."""
    exact, rough = tiny_backbone(kind), tiny_backbone(kind, precision="bf16")
    assert rough.dtype == torch.bfloat16
    assert rough.nbytes < exact.nbytes
    norms = [m for m in rough._model.modules() if isinstance(m, nn.LayerNorm)]
    assert {type(m) for m in norms} == {LayerNormFp32}, "accelerators do not mix widths within one norm"
    assert {m.weight.dtype for m in norms} == {torch.float32}
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a photo of a cat", "two dogs", "the number seven"]
    for mine, other in (
        (rough.encode_images(pixels), exact.encode_images(pixels)),
        (rough.encode_texts(texts), exact.encode_texts(texts)),
    ):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.norm(dim=-1), torch.ones(len(mine)))
        assert float((1 - F.cosine_similarity(mine, other)).max()) < 1e-3
        assert float((mine - other).abs().max()) > 1e-7, "it did not compute in bf16"


def test_bf16_gradients_point_the_same_way() -> None:
    gradients = []
    for precision in ("fp32", "bf16"):
        b = tiny_backbone("clip", precision=precision)
        table = PromptTable(b, ["cat", "red panda", "dog"], 4)
        ctx = torch.randn(4, b.d_text, generator=torch.Generator().manual_seed(0)).mul_(0.1).requires_grad_()
        features = b.text(table.assemble(ctx))
        target = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad((features * target).sum(), ctx)
        assert gradient.dtype == torch.float32
        gradients.append(gradient.flatten())
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.999


def test_visual_prompts_in_bf16() -> None:
    b = tiny_backbone("clip", precision="bf16")
    learned = torch.zeros(2, 3, 32, requires_grad=True)
    features = b.image.encode(torch.randn(2, 3, 32, 32), learned)
    features[:, 0].sum().backward()
    assert features.dtype == torch.float32
    assert learned.grad is not None
    assert learned.grad.dtype == torch.float32


def test_another_precision_of_the_same_backbone() -> None:
    rough = tiny_backbone("custom", precision="bf16")
    wide = rough.with_precision("fp32")
    assert (wide.precision, wide.dtype, wide.fingerprint) == ("fp32", torch.float32, rough.fingerprint)
    assert all(p.dtype == torch.float32 for p in wide._model.parameters())
    assert rough.dtype == torch.bfloat16
    assert any(p.dtype == torch.bfloat16 for p in rough._model.parameters()), "the first one must stay as it was"
    assert wide.with_precision("fp32") is wide
    texts = ["a cat", "a dog"]
    assert float((1 - F.cosine_similarity(wide.encode_texts(texts), rough.encode_texts(texts))).max()) < 1e-3
