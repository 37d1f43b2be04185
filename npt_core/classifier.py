"""The artefact: learned parameters in safetensors, everything else in JSON; save, load, predict, new class names."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import safetensors.torch
import torch
from torch import Tensor

from npt_core.errors import ArtefactError, ConfigError, Fault, IncompatibleError
from npt_core.methods import ImageBatch, ImageInput, Method, get_method
from npt_core.mixture import mixed

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

MANIFEST_FORMAT = 1
TENSOR_FILE, MANIFEST_FILE, REPORT_FILE = "classifier.safetensors", "manifest.json", "report.json"
TEXT_FEATURES = "text_features"
LEARNED = "learned."

MAX_HEADER_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 256 << 20
MAX_TENSORS = 4096
MAX_TENSOR_BYTES = 2 << 30
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

LABEL_SETS_KEPT = 8
MAX_LABELS = 10_000
CONDITIONAL_CHUNK = 16
"""Images at once where every image has text features of its own."""


@dataclass(frozen=True)
class Scores:
    """Answers for B images.

    Attributes:
        labels: The K labels in the order of the columns.
        probabilities: (B, K) float32, rows sum to 1; CPU.
        similarities: (B, K) float32 cosines of image and text; for methods without text, logits over the scale.
    """

    labels: tuple[str, ...]
    probabilities: Tensor
    similarities: Tensor


class Classifier:
    """A tuned (or zero-shot) classifier on one backbone.

    Make one with `npt_core.tune`, `Classifier.load` or `zero_shot`.

    Args:
        method: With its learned parameters.
        manifest: What is known about it, JSON-able.
        report: The tuning report, JSON-able, or None.
        text_features: (K, d) of its own classes, where they do not depend on the image; computed when None.
    """

    def __init__(
        self,
        method: Method,
        manifest: Mapping[str, Any],
        report: Mapping[str, Any] | None = None,
        text_features: Tensor | None = None,
    ) -> None:
        self.method = method.eval().requires_grad_(False)
        self.backbone = method.backbone
        self.manifest: dict[str, Any] = dict(manifest)
        self.report = None if report is None else dict(report)
        self.labels = tuple(one.label for one in method.classes)
        self.tuned_share = float(self.manifest.get("tuned_share", 1.0))
        if not 0.0 <= self.tuned_share <= 1.0:
            raise ArtefactError(f"{MANIFEST_FILE} has a tuned_share of {self.tuned_share}; it lies between 0 and 1.")
        self._text = text_features
        if text_features is None and self._cacheable:
            with torch.no_grad():
                self._text = method.encode_text()
        self._others: OrderedDict[tuple[str, ...], tuple[Method, Tensor | None]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def _cacheable(self) -> bool:
        return self.method.has_text_features and not self.method.text_depends_on_image

    @property
    def needs_pixels(self) -> bool:
        """Whether `predict` wants (B, 3, H, W) pixels in place of (B, d) features."""
        return self.method.image_input is ImageInput.PIXELS

    @property
    def needs_tokens(self) -> bool:
        """Whether `predict` wants the image tower's token features beside the pooled ones."""
        return self.method.image_input is ImageInput.TOKENS

    @property
    def text_features(self) -> Tensor | None:
        """(K, d) unit-norm text features of its own classes, or None where they depend on the image or do not exist."""
        return self._text

    @property
    def nbytes(self) -> int:
        """Memory of what is learned and of the text features of its own classes."""
        tensors = [*self.method.state_dict().values(), *([self._text] if self._text is not None else [])]
        return sum(tensor.nbytes for tensor in tensors)

    # --- prediction ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, images: Tensor, *, labels: Sequence[str] | None = None, tokens: Tensor | None = None) -> Scores:
        """Classify images.

        Args:
            images: (B, d) features of `backbone.encode_images`, or (B, 3, H, W) pixels where `needs_pixels`.
            labels: Classify among these names in place of its own; new names use the learned prompt. The order is kept.
            tokens: (B, T, d) token features where `needs_tokens`.

        Returns:
            Scores over `labels`, or over the classifier's own labels.

        Raises:
            IncompatibleError: New names, and what was learned belongs to its own classes.
            ConfigError: Fewer than two labels, or a label twice; images of the wrong shape.
            PromptError: A name that is too long, or two that read the same.
        """
        method, text, columns = self.method, self._text, None
        if labels is not None:
            method, text, columns = self._for_labels(labels)
        batch = self._batch(images, tokens)
        logits, similarities = self._score(method, batch, text)
        if columns is not None:
            logits, similarities = logits[:, columns], similarities[:, columns]
        names = self.labels if labels is None else tuple(labels)
        return Scores(names, torch.softmax(logits.float(), dim=1).cpu(), similarities.float().cpu())

    def _batch(self, images: Tensor, tokens: Tensor | None) -> ImageBatch:
        device = self.backbone.device
        expected = 4 if self.needs_pixels else 2
        if images.dim() != expected or (expected == 2 and images.shape[1] != self.backbone.d):
            wanted = "(B, 3, H, W) pixels" if self.needs_pixels else f"(B, {self.backbone.d}) features"
            raise ConfigError(f"Method {self.method.name!r} predicts on {wanted}; got shape {tuple(images.shape)}.")
        if self.needs_pixels:
            return ImageBatch(pixels=images.to(device))
        if self.needs_tokens and tokens is None:
            raise ConfigError(f"Method {self.method.name!r} predicts on token features too; give `tokens`.")
        return ImageBatch(features=images.to(device), tokens=None if tokens is None else tokens.to(device))

    def _score(self, method: Method, batch: ImageBatch, text: Tensor | None) -> tuple[Tensor, Tensor]:
        size = next(len(t) for t in (batch.features, batch.pixels) if t is not None)
        chunk = CONDITIONAL_CHUNK if method.text_depends_on_image else max(size, 1)
        parts = []
        for start in range(0, max(size, 1), chunk):
            part = ImageBatch(
                *(None if t is None else t[start : start + chunk] for t in (batch.features, batch.tokens, batch.pixels))
            )
            output = method(part, text)
            if output.text_features is None:
                similarity = output.logits / method.scale
            elif output.text_features.dim() == 3:
                similarity = torch.einsum("bd,bkd->bk", output.image_features, output.text_features)
            else:
                similarity = output.image_features @ output.text_features.t()
            parts.append((output.logits, similarity))
        logits, similarities = torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])
        if self.tuned_share == 1.0:
            return logits, similarities
        # The rest of the answer is plain zero-shot on the same pictures.
        plain = batch.features if batch.pixels is None else self.backbone.encode_images(batch.pixels)
        assert plain is not None  # noqa: S101 - for the type checker
        cosines = plain @ method.zero_shot_text().t()
        return (
            mixed(logits, self.backbone.logit_scale * cosines, self.tuned_share),
            mixed(similarities, cosines, self.tuned_share),
        )

    def _for_labels(self, labels: Sequence[str]) -> tuple[Method, Tensor | None, list[int] | None]:
        """Return the method, its text features and the columns to keep for other labels."""
        key = tuple(labels)
        if not 2 <= len(key) <= MAX_LABELS or len(set(key)) != len(key) or not all(name.strip() for name in key):
            raise ConfigError(
                f"`labels` must be 2 to {MAX_LABELS} different, non-empty names; got {len(key)}, of which "
                f"{len(set(key))} differ."
            )
        own = {label: number for number, label in enumerate(self.labels)}
        if all(label in own for label in key):
            return self.method, self._text, [own[label] for label in key]
        with self._lock:
            known = self._others.get(key)
            if known is not None:
                self._others.move_to_end(key)
                return (*known, None)
        from npt_core.clip.tokens import ClassPrompt

        classes = [self.method.classes[own[label]] if label in own else ClassPrompt(label) for label in key]
        method = self.method.with_classes(classes).eval()
        text = method.encode_text() if self._cacheable else None
        with self._lock:
            self._others[key] = (method, text)
            while len(self._others) > LABEL_SETS_KEPT:
                self._others.popitem(last=False)
        return method, text, None

    # --- the artefact -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return what the safetensors file holds."""
        tensors = {LEARNED + name: value.detach() for name, value in self.method.state_dict().items()}
        if self._text is not None:
            tensors[TEXT_FEATURES] = self._text.detach()
        return {name: value.cpu().contiguous().clone() for name, value in tensors.items()}

    def save(self, folder: Path | str) -> None:
        """Write `classifier.safetensors`, `manifest.json` and, where there is one, `report.json`.

        Each file appears whole or not at all; the manifest comes last, so that a folder with a manifest is complete.

        Args:
            folder: Made where it is missing; it must hold no classifier.

        Raises:
            ArtefactError: There is one already.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST_FILE).exists():
            raise ArtefactError(f"Folder {folder.name!r} holds a classifier already; save into a fresh one.")
        _write(folder / TENSOR_FILE, safetensors.torch.save(self.tensors(), {"format": "pt"}))
        if self.report is not None:
            _write(folder / REPORT_FILE, json.dumps(self.report, indent=1).encode())
        _write(folder / MANIFEST_FILE, json.dumps(self.manifest, indent=1).encode())

    @staticmethod
    def read_manifest(folder: Path | str) -> dict[str, Any]:
        """Return the manifest of a saved classifier.

        Raises:
            ArtefactError: None there, too large, or not one that can be read.
        """
        path = Path(folder) / MANIFEST_FILE
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ArtefactError(f"{MANIFEST_FILE} has {path.stat().st_size} bytes; at most {MAX_MANIFEST_BYTES}.")
            manifest = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ArtefactError(f"{MANIFEST_FILE} cannot be read: {type(error).__name__}; save it again.") from error
        if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
            raise ArtefactError(f"{MANIFEST_FILE} has format {found!r}; this version reads {MANIFEST_FORMAT}.")
        faults = [
            Fault(key, "is missing or of another type")
            for key, kind in (("method", str), ("method_config", dict), ("classes", list), ("backbone", dict))
            if not isinstance(manifest.get(key), kind)
        ]
        if faults:
            raise ArtefactError(f"{MANIFEST_FILE} is incomplete: {', '.join(fault.path for fault in faults)}.", faults)
        return manifest

    @classmethod
    def load(cls, folder: Path | str, backbone: Backbone) -> Self:
        """Load a saved classifier.

        Args:
            folder: Where it was saved.
            backbone: The very one it was tuned on.

        Raises:
            FingerprintMismatchError: Another backbone, or other preprocessing.
            ArtefactError: The files cannot be read, are over a limit, or do not fit the manifest.
        """
        folder = Path(folder)
        manifest = cls.read_manifest(folder)
        expected = str(manifest["backbone"].get("fingerprint", ""))
        backbone.require_fingerprint(expected, what=f"Classifier {folder.name!r}")
        method = _build(manifest, backbone)
        tensors = read_tensors(folder / TENSOR_FILE)
        learned = {name[len(LEARNED) :]: value for name, value in tensors.items() if name.startswith(LEARNED)}
        method.make_room({name: value.shape for name, value in learned.items()})
        _fit_state(method, learned)
        text = tensors.get(TEXT_FEATURES)
        if text is not None:
            if text.shape != (len(method.classes), backbone.d) or text.dtype != torch.float32:
                raise ArtefactError(
                    f"{TENSOR_FILE} holds text features of shape {tuple(text.shape)}; the manifest's classes need "
                    f"({len(method.classes)}, {backbone.d})."
                )
            text = text.to(backbone.device)
        report = None
        if (folder / REPORT_FILE).exists():
            try:
                report = json.loads((folder / REPORT_FILE).read_bytes())
            except (OSError, ValueError) as error:
                raise ArtefactError(f"{REPORT_FILE} cannot be read: {type(error).__name__}.") from error
        return cls(method, manifest, report, text)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _build(manifest: Mapping[str, Any], backbone: Backbone) -> Method:
    from npt_core.clip.tokens import ClassPrompt

    try:
        classes = [
            ClassPrompt(str(one["label"]), str(one["name"]), tuple(str(text) for text in one["phrasings"]))
            for one in manifest["classes"]
        ]
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{MANIFEST_FILE} has classes without label, name or phrasings.") from error
    try:
        method_class = get_method(manifest["method"])
        config = method_class.Config.from_dict(manifest["method_config"])
    except ConfigError as error:
        raise ArtefactError(f"{MANIFEST_FILE} asks for what this version does not have: {error.message}") from error
    return method_class(config, backbone, classes, generator=torch.Generator().manual_seed(0)).to(backbone.device)


def _fit_state(method: Method, learned: Mapping[str, Tensor]) -> None:
    """Load learned tensors after checking names, shapes and types."""
    expected = method.state_dict()
    faults = [Fault(name, "is missing") for name in expected if name not in learned]
    faults += [Fault(name, "is not a tensor of this method") for name in learned if name not in expected]
    for name in expected.keys() & learned.keys():
        have, want = learned[name], expected[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            faults.append(
                Fault(name, f"is {have.dtype} {tuple(have.shape)}, expected {want.dtype} {tuple(want.shape)}")
            )
        elif have.is_floating_point() and not bool(torch.isfinite(have).all()):
            faults.append(Fault(name, "holds NaN or infinite values"))
    if faults:
        listed = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
        raise ArtefactError(f"{TENSOR_FILE} does not fit the manifest: {listed}.", faults)
    method.load_state_dict(dict(learned))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file under caps on header, count, types and size.

    Raises:
        ArtefactError: Any of them broken, or the file is no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise ArtefactError(f"{path.name} has a header of {length} bytes; at most {MAX_HEADER_BYTES}.")
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path.name} is no safetensors file: {type(error).__name__}.") from error
    if not isinstance(header, dict):
        raise ArtefactError(f"{path.name} is no safetensors file: its header is a {type(header).__name__}.")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        raise ArtefactError(f"{path.name} holds {len(entries)} tensors; at most {MAX_TENSORS} are accepted.")
    total = 0
    for name, entry in entries.items():
        entry = entry if isinstance(entry, dict) else {}
        width, shape = DTYPE_BYTES.get(str(entry.get("dtype"))), entry.get("shape")
        sized = isinstance(shape, list) and len(shape) <= 8 and all(isinstance(n, int) and n >= 0 for n in shape)
        if width is None or shape is None or not sized:
            raise ArtefactError(f"{path.name}: tensor {name[:100]!r} has a type or shape that is not accepted.")
        count = 1
        for side in shape:
            count *= side
        total += count * width
    if total > MAX_TENSOR_BYTES or total > size:
        raise ArtefactError(
            f"{path.name} claims {total} bytes of tensors in a file of {size}; it is damaged or hostile."
        )
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:
        raise ArtefactError(f"{path.name} is no safetensors file: {type(error).__name__}.") from error


def zero_shot(
    backbone: Backbone, labels: Sequence[str | ClassPrompt], templates: Sequence[str] | None = None
) -> Classifier:
    """Make a classifier that was never tuned; it has no artefact.

    Args:
        backbone: The frozen towers.
        labels: Names, or classes with phrasings.
        templates: Sentences with one `{}`; by default those that suit the backbone.

    Raises:
        ConfigError: Fewer than two labels, or a label twice.
    """
    from npt_core.clip.tokens import ClassPrompt

    classes = [ClassPrompt(one) if isinstance(one, str) else one for one in labels]
    names = [one.label for one in classes]
    if not 2 <= len(names) <= MAX_LABELS or len(set(names)) != len(names) or not all(n.strip() for n in names):
        raise ConfigError(
            f"Zero-shot needs 2 to {MAX_LABELS} different, non-empty labels; got {len(names)}, of which "
            f"{len(set(names))} differ."
        )
    method_class = get_method("zero_shot")
    config = method_class.Config.from_dict({"templates": list(templates or ())})
    method = method_class(config, backbone, classes, generator=torch.Generator().manual_seed(0))
    manifest = {
        "format": MANIFEST_FORMAT,
        "method": "zero_shot",
        "method_config": config.to_dict(),
        "classes": [describe_class(one) for one in classes],
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
    }
    return Classifier(method, manifest)


def describe_class(one: ClassPrompt) -> dict[str, Any]:
    """Return a class as JSON-able values."""
    return {"label": one.label, "name": one.name, "phrasings": list(one.phrasings)}


__all__ = ["Classifier", "IncompatibleError", "Scores", "describe_class", "read_tensors", "zero_shot"]
