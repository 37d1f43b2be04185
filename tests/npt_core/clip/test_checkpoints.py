from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from npt_core.clip import Backbone, load_backbone
from npt_core.clip.checkpoints import architectures_like, read_state_dict
from npt_core.errors import BackboneUnavailableError, UnknownBackboneError, UnsupportedBackboneError
from tests.npt_core.clip.conftest import ARCH
from tests.support.tiny_clip import build


@pytest.fixture
def model(archs: dict[str, dict[str, Any]]) -> nn.Module:
    return build(archs[ARCH], seed=5)


def write(state: dict[str, torch.Tensor], path: Path, form: str) -> Path:
    """One state dict in one of the forms in which people have it."""
    if form == "safetensors":
        save_file(state, path)
    elif form == "training":
        torch.save({"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    elif form == "compiled":
        torch.save({"state_dict": {f"_orig_mod.{k}": v for k, v in state.items()}}, path)
    elif form == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(state, path)
    return path


def openai_archive(state: dict[str, torch.Tensor], path: Path) -> Path:
    """A TorchScript archive as OpenAI published them: weights in half precision and three integers."""

    class Node(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Node()
    for name, tensor in state.items():
        *folders, leaf = name.split(".")
        node: nn.Module = root
        for folder in folders:
            if folder not in dict(node.named_children()):
                node.add_module(folder, Node())
            node = dict(node.named_children())[folder]
        node.register_parameter(leaf, nn.Parameter(tensor.half(), requires_grad=False))
    for name, value in (("input_resolution", 32), ("context_length", 24), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated; the archives are there all the same
        torch.jit.script(root).save(str(path))
    return path


def load(path: Path, arch: str = ARCH) -> Backbone:
    return load_backbone(f"local:mine={arch}@{path}", device="cpu")


def assert_is(backbone: Backbone, model: nn.Module) -> None:
    text = ["a photo of a cat", "two dogs"]
    tokens = torch.zeros(2, 24, dtype=torch.int64)
    for n, words in enumerate(text):
        ids = [49406, *backbone.tokenizer.encode(words), 49407]
        tokens[n, : len(ids)] = torch.tensor(ids)
    own = model.encode_text(tokens, normalize=True)  # type: ignore[operator]
    torch.testing.assert_close(backbone.encode_texts(text), own)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone.encode_images(pixels), model.encode_image(pixels, normalize=True))  # type: ignore[operator]


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "training", "compiled", "legacy"])
def test_every_form_is_the_same_backbone(form: str, model: nn.Module, tmp_path: Path) -> None:
    path = write(dict(model.state_dict()), tmp_path / "weights.bin", form)  # the content decides, not the ending
    backbone = load(path)
    assert_is(backbone, model)
    assert (backbone.name, backbone.spec.kind) == ("mine", "local")
    assert backbone.fingerprint == load(write(dict(model.state_dict()), tmp_path / "b.pt", "safetensors")).fingerprint
    assert str(tmp_path) not in str(backbone.describe()), "what users see holds no path of the machine"


def test_openai_archive(archs: dict[str, Any], tmp_path: Path) -> None:
    """Read without running it, in half precision, and known to be QuickGELU although nothing in it says so."""
    quick = build(archs[f"{ARCH}-quickgelu"], seed=5)
    rounded = {k: v.half().float() for k, v in quick.state_dict().items()}
    quick.load_state_dict(rounded)
    path = openai_archive(rounded, tmp_path / "ViT.pt")
    backbone = load(path)
    assert_is(backbone, quick)
    named = load(write(rounded, tmp_path / "w.safetensors", "safetensors"), f"{ARCH}-quickgelu")
    assert backbone.fingerprint == named.fingerprint
    plain = load(write(rounded, tmp_path / "w.safetensors", "safetensors"))
    assert plain.fingerprint != backbone.fingerprint, "another activation is another backbone"


def test_layouts_with_and_without_text_prefix(archs: dict[str, Any], tmp_path: Path) -> None:
    custom = build(archs[f"{ARCH}-custom"], seed=5)
    bare = {k.removeprefix("text."): v for k, v in custom.state_dict().items()}
    # projection with bias: the older layout has no name for it, so it keeps its own
    bare |= {k: v for k, v in custom.state_dict().items() if "text_projection" in k}
    assert len(bare) > len(custom.state_dict())
    root = build(archs[ARCH], seed=5)
    parts = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
    dotted = {f"text.{k}" if k.startswith(parts) else k: v for k, v in root.state_dict().items()}
    assert_is(load(write(dotted, tmp_path / "x", "safetensors")), root)


def test_wrong_architecture_lists_every_tensor_and_says_what_it_looks_like(
    archs: dict[str, Any], model: nn.Module, tmp_path: Path
) -> None:
    path = write(dict(model.state_dict()), tmp_path / "w.pt", "state_dict")
    with pytest.raises(BackboneUnavailableError) as refused:
        load(path, f"{ARCH}-deep")
    message = str(refused.value)
    assert f"is no {ARCH}-deep" in message
    assert "12 missing (transformer.resblocks.3." in message
    likely = message.split("looks like ")[1].removesuffix(".").split(" or ")
    assert ARCH in likely  # beside it whatever other suites registered in the same shape
    assert {f.message for f in refused.value.faults} == {"missing"}
    assert len(refused.value.faults) == 12


def test_missing_unexpected_and_wrongly_shaped(model: nn.Module, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    state["extra.weight"] = torch.zeros(1)
    del state["ln_final.bias"]
    state["ln_final.weight"] = torch.zeros(31)
    state["positional_embedding"] = torch.zeros(20, 32)  # another context length is not stretched silently
    with pytest.raises(BackboneUnavailableError) as refused:
        load(write(state, tmp_path / "w.pt", "state_dict"))
    faults = {f.path: f.message for f in refused.value.faults}
    assert faults.keys() == {"extra.weight", "ln_final.bias", "ln_final.weight", "positional_embedding"}
    assert faults["ln_final.weight"] == f"shape (31,), but {ARCH} has (32,)"
    assert all(word in str(refused.value) for word in ("1 missing", "1 unexpected", "2 of another size"))


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return (os.mkdir, (os.environ["NPT_TEST_EVIL"],))


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_pickled_objects_are_never_loaded(
    form: str, model: nn.Module, archs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "ran"
    monkeypatch.setenv("NPT_TEST_EVIL", str(trap))
    path = tmp_path / "w.pt"
    payload = {"state_dict": dict(model.state_dict()), "extra": Evil()}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(BackboneUnavailableError, match=r"w\.pt"):
        load(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x04N.", b"PK\x03\x04" + bytes(60), (5).to_bytes(8, "little") + b"{]]]]", bytes(500)],
)
def test_files_that_are_no_checkpoint(content: bytes, archs: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(BackboneUnavailableError, match=r"w\.pt"):
        load(path)


@pytest.mark.parametrize("form", ["safetensors", "state_dict"])
def test_a_file_cut_short(form: str, model: nn.Module, tmp_path: Path) -> None:
    path = write(dict(model.state_dict()), tmp_path / "w.pt", form)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BackboneUnavailableError, match="cut short"):
        load(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, [1, 2], {"a": {"b": torch.zeros(1)}}])
def test_tensors_must_be_there_by_name(content: Any, archs: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BackboneUnavailableError, match=r"w\.pt"):
        load(tmp_path / "w.pt")


def test_no_such_file(archs: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(BackboneUnavailableError, match="no checkpoint file"):
            load(path)


def test_text_is_no_checkpoint(archs: Any, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("root:x:0:0:root:/root:/bin/sh\n")
    with pytest.raises(BackboneUnavailableError, match="cannot be read|never loaded"):
        load(tmp_path / "users")


def test_no_such_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackboneError, match=r"Did you mean .*ViT-B-16"):
        load(tmp_path / "none.pt", "ViT-B-61")


@pytest.mark.parametrize("arch", ["coca_ViT-B-32", "roberta-ViT-B-32"])
def test_architectures_without_prompts_are_refused_before_the_file_is_read(arch: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBackboneError, match="CoCa|Hugging Face model"):
        load(tmp_path / "none.pt", arch)


def test_what_a_file_looks_like() -> None:
    shapes = {
        "positional_embedding": (77, 512),
        "visual.conv1.weight": (768, 3, 16, 16),
        "visual.positional_embedding": (197, 768),
        **{f"transformer.resblocks.{i}.ln_1.bias": (1,) for i in range(12)},
        **{f"visual.transformer.resblocks.{i}.ln_1.bias": (1,) for i in range(12)},
    }
    state = {name: torch.empty(shape) for name, shape in shapes.items()}
    assert set(architectures_like(state)) == {"ViT-B-16", "ViT-B-16-quickgelu"}
    assert architectures_like({"a": torch.empty(1)}) == []


def test_what_is_no_weight_is_left_out(model: nn.Module, tmp_path: Path) -> None:
    state = dict(model.state_dict()) | {"attn_mask": torch.zeros(24, 24)}
    read, openai = read_state_dict(write(state, tmp_path / "w.pt", "state_dict"))
    assert read.keys() == model.state_dict().keys()
    assert not openai
