"""A classifier as ONNX, run in onnxruntime and compared with the classifier it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from npt_core import Classifier
from npt_core.classifier import describe_class
from npt_core.clip import ClassPrompt, load_backbone
from npt_core.errors import ConfigError, ExportError, ExtraMissingError
from npt_core.methods import ImageInput, get_method, list_methods
from npt_core.onnx_export import OPSET, TOLERANCE, refusal, run_onnx, write_onnx
from tests.support.tiny_clip import tiny_backbone

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning:copyreg")]  # torch's own

CAN = {"coop", "kgcoop", "linear_probe", "prograd", "tip_adapter", "zero_shot"}


def classifier(backbone: Any, method: str, share: float = 1.0, temperature: float = 1.0) -> Classifier:
    """Of random learned values, so that they matter."""
    kind = get_method(method)
    classes = [ClassPrompt(label) for label in ("red", "green", "blue")]
    made = kind(kind.Config(), backbone, classes, generator=torch.Generator().manual_seed(0))
    if made.image_input is ImageInput.POOLED:
        features = torch.nn.functional.normalize(torch.randn(6, 1, backbone.d), dim=-1)
        made.fit(features, torch.tensor([0, 1, 2, 0, 1, 2]))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    manifest = {
        "format": 1,
        "method": method,
        "classes": [describe_class(one) for one in classes],
        "tuned_share": share,
        "preprocess": backbone.preprocess.to_dict(),
    }
    if temperature != 1:
        stored = {"temperature": temperature, "count": 40, "source": "held-out", "reject_below": 0.5}
        manifest |= {"calibration": stored, "assumed_frequencies": [0.5, 0.25, 0.25]}
    return Classifier(made, manifest)


def compare(made: Classifier, path: Path) -> None:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        pictures = torch.randn(count, 3, *made.backbone.image_size)
        scores = made.predict(made.backbone.encode_images(pictures))
        found = session.run(["probabilities", "similarities"], {"images": pictures.numpy()})
        assert found[0].shape == (count, len(made.labels))
        np.testing.assert_allclose(found[0], scores.probabilities.numpy(), atol=1e-4)
        np.testing.assert_allclose(found[1], scores.similarities.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "method", "share"),
    [
        ("clip", "coop", 1.0),
        ("clip", "coop", 0.6),  # mixed with zero-shot
        ("clip", "linear_probe", 1.0),  # has no class texts at all
        ("clip", "tip_adapter", 1.0),
        ("quickgelu", "zero_shot", 1.0),
        ("custom", "coop", 1.0),
        ("resnet", "coop", 1.0),
    ],
)
def test_answers_as_the_classifier_does(tmp_path: Path, kind: str, method: str, share: float) -> None:
    made = classifier(tiny_backbone(kind), method, share)
    differences = write_onnx(made, tmp_path / "m.onnx")
    assert set(differences) == {"probabilities", "similarities"}
    assert max(differences.values()) <= TOLERANCE
    compare(made, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_convolutional_stem_of_the_demo(tmp_path: Path) -> None:
    made = classifier(load_backbone("demo", device="cpu", precision="fp32"), "coop")
    write_onnx(made, tmp_path / "m.onnx", {"model_id": "model_0"})
    compare(made, tmp_path / "m.onnx")
    says_what_it_is(made, tmp_path / "m.onnx")


def says_what_it_is(made: Classifier, path: Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    (images,) = model.graph.input
    dims = images.type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [3, *made.backbone.image_size]
    assert [output.name for output in model.graph.output] == ["probabilities", "similarities"]
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(facts["labels"]) == list(made.labels)
    assert json.loads(facts["preprocess"]) == made.backbone.preprocess.to_dict()
    assert facts["fingerprint"] == made.backbone.fingerprint
    assert facts["model_id"] == "model_0"
    height, width = made.backbone.image_size
    for words in ("RGB", f"{height} x {width}", "mean", "std", "divide by 255"):
        assert words in facts["how_to_prepare"]
    tower = sum(p.nbytes for p in made.backbone.image.visual.parameters())
    assert tower < path.stat().st_size < tower + 1_000_000 < made.backbone.nbytes  # no text tower in it


def test_the_temperature_is_in_its_probabilities_and_told(tmp_path: Path) -> None:
    backbone = tiny_backbone("clip")
    made = classifier(backbone, "coop", temperature=2.5)
    plain = Classifier(made.method, made.manifest | {"calibration": None})
    write_onnx(made, tmp_path / "m.onnx")
    compare(made, tmp_path / "m.onnx")
    pictures = torch.randn(3, 3, *backbone.image_size)
    cold = plain.predict(backbone.encode_images(pictures)).probabilities.numpy()
    warm = run_onnx(tmp_path / "m.onnx", pictures.numpy())["probabilities"]
    expected = cold ** (1 / 2.5)
    np.testing.assert_allclose(warm, expected / expected.sum(axis=1, keepdims=True), atol=1e-3)
    facts = {prop.key: prop.value for prop in onnx.load(tmp_path / "m.onnx").metadata_props}
    told = {
        name: json.loads(facts[name]) for name in ("temperature", "calibrated", "reject_below", "assumed_frequencies")
    }
    assert told == {
        "temperature": 2.5,
        "calibrated": True,
        "reject_below": 0.5,
        "assumed_frequencies": [0.5, 0.25, 0.25],
    }


@pytest.mark.parametrize(("resize", "words"), [("squash", "resize to 32 x 32"), ("pad", "pad to 32 x 32")])
def test_it_tells_how_this_model_s_pictures_are_fitted(tmp_path: Path, resize: str, words: str) -> None:
    made = classifier(tiny_backbone("clip").with_resize(resize), "zero_shot")
    write_onnx(made, tmp_path / "m.onnx")
    facts = {prop.key: prop.value for prop in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(facts["preprocess"]) == made.backbone.preprocess.to_dict()
    assert words in facts["how_to_prepare"]


def test_the_reference_of_the_format_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is used where onnxruntime is not installed."""
    made = classifier(tiny_backbone("clip"), "coop")
    write_onnx(made, tmp_path / "m.onnx")
    pictures = torch.randn(2, 3, 32, 32).numpy()
    quick = run_onnx(tmp_path / "m.onnx", pictures)
    monkeypatch.setattr("npt_core.onnx_export.find_spec", lambda name: None)
    slow = run_onnx(tmp_path / "m.onnx", pictures)
    for name, values in quick.items():
        np.testing.assert_allclose(slow[name], values, atol=1e-5)


def test_what_answers_otherwise_is_thrown_away(backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"probabilities": np.full((3, 3), 0.5, np.float32), "similarities": np.zeros((3, 3), np.float32)}
    monkeypatch.setattr("npt_core.onnx_export.run_onnx", lambda *_: wrong)
    with pytest.raises(ExportError, match="answers otherwise"):
        write_onnx(classifier(backbone, "coop"), tmp_path / "m.onnx")
    wrong["probabilities"][:] = np.nan
    with pytest.raises(ExportError, match="answers otherwise"):
        write_onnx(classifier(backbone, "coop"), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_every_method_can_or_says_why() -> None:
    reasons = {info.name: refusal(info.name) for info in list_methods()}
    assert {name for name, reason in reasons.items() if reason is None} == CAN
    assert "inside the image tower" in (reasons["vpt"] or "")
    assert "anew for each picture" in (reasons["cocoop"] or "")
    with pytest.raises(ConfigError):
        refusal("no_such")


@pytest.mark.parametrize("method", ["vpt", "cocoop", "apt"])
def test_what_cannot_be_written_is_refused(backbone: Any, tmp_path: Path, method: str) -> None:
    with pytest.raises(ExportError, match="cannot be written as ONNX"):
        write_onnx(classifier(backbone, method), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_tower_that_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="fp32 on the CPU"):
        write_onnx(classifier(tiny_backbone("clip", precision="bf16"), "coop"), tmp_path / "m.onnx")


def test_a_tower_that_is_too_large_for_the_format_is_refused(
    backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("npt_core.onnx_export.MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="at most 1,000"):
        write_onnx(classifier(backbone, "coop"), tmp_path / "m.onnx")


def test_without_the_packages_it_says_what_to_install(
    backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("npt_core.onnx_export.PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ExtraMissingError, match="no_such_package not installed.*pip install onnx onnxscript"):
        write_onnx(classifier(backbone, "coop"), tmp_path / "m.onnx")
