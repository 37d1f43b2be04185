"""A classifier as one ONNX graph: preprocessed pictures in, probabilities and similarities out, without this project.

For models whose class texts are fixed and whose image path is frozen: the graph holds the image tower and the text
features, nothing of the text tower. Whatever is written was run and compared with the classifier first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npt_core.errors import ExportError, ExtraMissingError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from npt_core.classifier import Classifier

OPSET = 18
RECIPE = "2"
"""Changes whenever the same classifier is written as another graph; part of the name of whatever is kept."""
PACKAGES = ("onnx", "onnxscript")
TOLERANCE = 1e-4
TRACED, COMPARED = 2, 3
"""Pictures in the batch the graph is made with, and in the one its answers are compared on."""
MAX_BYTES = 1_900_000_000
"""Most bytes of weights: one file of the format ends at 2 GiB."""
INPUT, OUTPUTS = "images", ("probabilities", "similarities")


def missing_packages() -> tuple[str, ...]:
    """Return what is not installed and needed to write ONNX."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)


def require_packages() -> None:
    """Raise where something is not installed.

    Raises:
        ExtraMissingError: It names what to install.
    """
    missing = missing_packages()
    if missing:
        raise ExtraMissingError(
            f"ONNX cannot be written here: {' and '.join(missing)} not installed. Where the server runs: "
            "pip install onnx onnxscript (the extra `onnx`)."
        )


def refusal(method: str) -> str | None:
    """Say why classifiers of a method cannot become ONNX, or None where they can.

    Args:
        method: Its name.

    Raises:
        ConfigError: There is no such method.
    """
    from npt_core.methods import ImageInput, get_method

    kind = get_method(method)
    if kind.image_input is ImageInput.PIXELS or kind.learns_image_path:
        return f"method {method!r} learns inside the image tower"
    if kind.text_depends_on_image or kind.image_input is not ImageInput.POOLED:
        return f"method {method!r} makes the text of every class anew for each picture"
    return None


def write_onnx(classifier: Classifier, path: Path | str, facts: Mapping[str, str] | None = None) -> dict[str, float]:
    """Write a classifier as ONNX.

    The graph: `images`, (batch, 3, H, W) float32 as `preprocess` in the metadata says, to `probabilities` and
    `similarities`, (batch, K) float32. The batch may have any size. Everything else a user needs is in the metadata:
    `labels`, `preprocess` and `how_to_prepare`, `method`, `backbone`, `fingerprint`; `temperature` (it is in the
    probabilities), `calibrated`, `reject_below` (the model's own, or null), and `assumed_frequencies` of the labels,
    for who adjusts to others.

    Args:
        classifier: On a backbone that computes in fp32 on the CPU.
        path: Where the file goes; it appears whole or not at all.
        facts: More metadata, for instance the model's id.

    Returns:
        The largest difference to the classifier for each output, at most `TOLERANCE`.

    Raises:
        ExportError: This classifier cannot be written, or what was written answers otherwise.
        ExtraMissingError: A package is not installed.
    """
    require_packages()
    backbone = classifier.backbone
    why = refusal(classifier.method.name)
    if why is None and (backbone.precision != "fp32" or backbone.device.type != "cpu"):
        why = f"its backbone computes in {backbone.precision} on {backbone.device}; load it in fp32 on the CPU"
    weights = sum(p.nbytes for p in backbone.image.visual.parameters())
    if why is None and weights > MAX_BYTES:
        why = f"its image tower has {weights:,} bytes, and an ONNX file holds at most {MAX_BYTES:,}"
    if why is not None:
        raise ExportError(f"This model cannot be written as ONNX: {why}.")
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        _write(classifier, part, {**_metadata(classifier), **(facts or {})})
        differences = _compare(classifier, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return differences


def _write(classifier: Classifier, path: Path, metadata: Mapping[str, str]) -> None:
    import torch

    graph = _graph(classifier)
    example = _pictures(classifier, TRACED)
    with torch.no_grad():
        graph(example)  # what is made at the first use must not be made of the tracer's tensors
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise ExportError("torch wrote no ONNX program; see the log.")
    program.model.producer_name = "npt-service"
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def _graph(classifier: Classifier) -> nn.Module:
    """The classifier as a module of one tensor to two."""
    from torch import nn

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = classifier.backbone.image.visual  # registered, so that its weights are written
            self.method = classifier.method

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            scores = classifier.predict(classifier.backbone.image.encode(images))
            return scores.probabilities, scores.similarities

    return Graph().eval()


def _pictures(classifier: Classifier, count: int) -> Tensor:
    import torch

    return torch.randn(count, 3, *classifier.backbone.image_size, generator=torch.Generator().manual_seed(count))


def _compare(classifier: Classifier, path: Path) -> dict[str, float]:
    import numpy as np

    pictures = _pictures(classifier, COMPARED)
    scores = classifier.predict(classifier.backbone.encode_images(pictures))
    expected = {"probabilities": scores.probabilities.numpy(), "similarities": scores.similarities.numpy()}
    found = run_onnx(path, pictures.numpy())
    differences = {name: float(np.abs(expected[name] - found[name]).max()) for name in OUTPUTS}
    worst = max(differences.values())
    if not worst <= TOLERANCE:
        raise ExportError(
            f"What was written answers otherwise than the model, by {worst:.2g} (accepted: {TOLERANCE:g}), and was "
            "thrown away. Report this with the name of the backbone."
        )
    return differences


def run_onnx(path: Path, pictures: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Run a written graph: with onnxruntime where it is installed, else with the slow reference of `onnx` itself.

    Args:
        path: The file.
        pictures: (B, 3, H, W) float32.

    Returns:
        (B, K) arrays by the name of the output.
    """
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        results = session.run(list(OUTPUTS), {INPUT: pictures})
    else:
        from onnx.reference import ReferenceEvaluator

        results = ReferenceEvaluator(str(path)).run(list(OUTPUTS), {INPUT: pictures})
    return dict(zip(OUTPUTS, results, strict=True))


# --- what is said about it --------------------------------------------------------------------------------------------


def _metadata(classifier: Classifier) -> dict[str, str]:
    backbone = classifier.backbone
    preprocess = backbone.preprocess.to_dict()  # as the classifier's pictures are prepared, whatever a manifest says
    return {
        "labels": json.dumps(classifier.labels, ensure_ascii=False),
        "preprocess": json.dumps(preprocess),
        "how_to_prepare": _in_words(preprocess),
        "method": classifier.method.name,
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "temperature": repr(classifier.calibration.temperature),
        "calibrated": json.dumps(classifier.calibration.fitted),
        "reject_below": json.dumps(classifier.calibration.reject_below),
        "assumed_frequencies": json.dumps(classifier.assumed_frequencies),
        "recipe": RECIPE,
    }


def _in_words(preprocess: Mapping[str, Any]) -> str:
    height, width = preprocess["size"]
    resize = {
        "shortest": f"resize the shorter side to {min(height, width)} pixels, cut {height} x {width} from the centre",
        "longest": f"resize the longer side to {max(height, width)} pixels, pad to {height} x {width} with grey "
        f"{preprocess.get('fill_color', 0)}",
        "squash": f"resize to {height} x {width} pixels",
    }[preprocess.get("resize_mode", "shortest")]
    return (
        "Decode to RGB (EXIF orientation applied, transparency on white); "
        f"{resize} ({preprocess.get('interpolation', 'bicubic')}, antialiased); divide by 255; subtract mean "
        f"{preprocess['mean']} and divide by std {preprocess['std']} for each channel; float32, batch x channel x "
        "height x width."
    )
