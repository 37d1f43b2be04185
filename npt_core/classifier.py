"""The artefact: learned parameters in safetensors, everything else in JSON; save, load, predict, new class names."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import safetensors.torch
import torch
from torch import Tensor

from npt_core.artefact import (
    MANIFEST_FILE,
    MANIFEST_FORMAT,
    REPORT_FILE,
    TENSOR_FILE,
)
from npt_core.errors import ArtefactError, ConfigError, Fault, IncompatibleError
from npt_core.methods import ImageBatch, ImageInput, Method, get_method
from npt_core.mixture import mixed
from npt_core.opening import backbone_of, saved_folder
from npt_core.priors import assumed
from npt_core.saved import LEARNED, MEMORY, TEXT_FEATURES, build, read_learned, read_report, resize_of, write
from npt_core.scores import MAX_LABELS, Manner, Scores, chosen
from npt_core.tensorfile import read_tensors

if TYPE_CHECKING:
    from npt_core.calibration import Calibration
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt
    from npt_core.serving.answers import Answer, Given

MAX_MANIFEST_BYTES = 256 << 20

LABEL_SETS_KEPT = 8
OBJECT_BYTES, CLASS_BYTES = 20 << 10, 800
"""Around the tensors, for a method and for each of its classes, as `tracemalloc` sees it; the story is not in it."""
CONDITIONAL_CHUNK = 16
"""Images at once where every image has text features of its own."""


class Classifier:
    """A tuned (or zero-shot) classifier on one backbone.

    Make one with `npt_core.tune`, `Classifier.load` or `zero_shot`.

    Args:
        method: With its learned parameters.
        manifest: What is known about it, JSON-able.
        report: The tuning report, JSON-able, or None.
        text_features: (K, d) of its own classes, where they do not depend on the image; computed when None.
        memory: What is remembered of the images it was tuned on, see `continual.memory`; None where nothing is.
    """

    computes_here = False
    """Its answers may wait for an accelerator."""

    def __init__(
        self,
        method: Method,
        manifest: Mapping[str, Any],
        report: Mapping[str, Any] | None = None,
        text_features: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> None:
        self.memory = memory
        self.method = method.eval().requires_grad_(False)
        self.backbone = method.backbone
        self.manifest: dict[str, Any] = dict(manifest)
        self.report = None if report is None else dict(report)
        self.labels = tuple(one.label for one in method.classes)
        self._manner = Manner.of(self.manifest, self.labels)
        self._text = text_features
        if text_features is None and self._cacheable:
            with torch.no_grad():
                self._text = method.encode_text()
        self._others: OrderedDict[tuple[str, ...], tuple[Method, Tensor | None]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def calibration(self) -> Calibration:
        """Its temperature, and how it was found."""
        return self._manner.calibration

    @property
    def tuned_share(self) -> float:
        """How much of the answer is tuned; the rest is plain zero-shot."""
        return self._manner.tuned_share

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
    def assumed_frequencies(self) -> tuple[float, ...]:
        """How frequent its scores take each of its own classes for; they sum to 1."""
        return assumed(self._manner.frequencies, self.labels)

    @property
    def nbytes(self) -> int:
        """Memory of what answers need: what is learned, prompts, text features of all names, and the objects around."""
        with self._lock:
            others = list(self._others.values())
        found: dict[int, int] = {}
        held = [(self.method, self._text), *others]
        for method, text in held:
            found |= method.storages()
            if text is not None:
                found[text.untyped_storage().data_ptr()] = text.untyped_storage().nbytes()
        memory = self.memory.nbytes if self.memory is not None else 0
        objects = sum(OBJECT_BYTES + CLASS_BYTES * method.num_classes for method, _ in held)
        return sum(found.values()) + memory + objects

    def new_classes_refusal(self) -> str | None:
        """Say why it cannot classify among other names than its own; None where it can."""
        return self.method.new_classes_refusal()

    def is_ready(self, labels: Sequence[str] | None = None) -> bool:
        """Whether `predict` among these names runs no tower: a matrix product or two."""
        text = self._text is not None or not self.method.has_text_features
        return text and labels is None and not self.needs_pixels and self.tuned_share == 1.0

    def look_again(self) -> None:
        """Nothing: all of it is in memory. See `Resident.look_again`."""

    def text_for(self, labels: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Return (K, d) text features of its learned prompt around other names, and those of plain zero-shot.

        The second is None where `tuned_share` is 1 and nobody needs it.

        Raises:
            IncompatibleError: What was learned belongs to its own classes, or the text depends on the image.
            ConfigError, PromptError: As for `predict`.
        """
        if not self._cacheable:
            raise IncompatibleError(
                f"Method {self.method.name!r} has no text features that are the same for all images."
            )
        key, columns = chosen(labels, self.labels)
        with torch.no_grad():
            method, text = (self.method, self._text) if columns is not None else self._method_for(key)
            plain = None if self.tuned_share == 1.0 else method.zero_shot_text()
        assert text is not None  # noqa: S101 - for the type checker
        return (text, plain) if columns is None else (text[columns], None if plain is None else plain[columns])

    # --- prediction ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        *,
        labels: Sequence[str] | None = None,
        tokens: Tensor | None = None,
        priors: Mapping[str, float] | None = None,
    ) -> Scores:
        """Classify images.

        The temperature applies whatever the labels are: what it was fitted to is how sharp the learned prompt is.

        Args:
            images: (B, d) features of `backbone.encode_images`, or (B, 3, H, W) pixels where `needs_pixels`.
            labels: Classify among these names in place of its own; new names use the learned prompt. The order is kept.
            tokens: (B, T, d) token features where `needs_tokens`.
            priors: How often each label occurs where the answers are used, by label, shares or counts; 0 leaves a
                class out. By default the frequencies that the scores assume: all the same, for a linear probe the
                shares of its training images.

        Returns:
            Scores over `labels`, or over the classifier's own labels.

        Raises:
            IncompatibleError: New names, and what was learned belongs to its own classes.
            ConfigError: Fewer than two labels, or a label twice; images of the wrong shape; priors that do not fit.
            PromptError: A name that is too long, or two that read the same.
        """
        names = self.labels if labels is None else tuple(labels)
        ratio = self._manner.log_ratio(names, priors)
        method, text, columns = self.method, self._text, None
        if labels is not None:
            method, text, columns = self._for_labels(labels)
        batch = self._batch(images, tokens)
        logits, similarities = self._score(method, batch, text)
        if columns is not None:
            logits, similarities = logits[:, columns], similarities[:, columns]
        return self._manner.scores(names, logits, similarities, ratio)

    def classify(
        self,
        images: Given | Sequence[Given],
        *,
        labels: Sequence[str] | None = None,
        top_k: int = 5,
        reject_below: float | None = None,
        priors: Mapping[str, float] | None = None,
    ) -> list[Answer]:
        """Classify image files, prepared exactly as the images it was tuned on.

        Args:
            images: One or many: paths, bytes of files, or pictures of Pillow.
            labels: As in `predict`.
            top_k: Classes in an answer; all where there are fewer.
            reject_below: The probability under which an answer is marked rejected; None: what the classifier stores.
            priors: As in `predict`.

        Returns:
            An answer for each image, in order; one that cannot be read has an `error`, which `label` and `best` raise.

        Raises:
            ConfigError, IncompatibleError, PromptError: As `predict`.
        """
        from npt_core.serving.answers import classify

        return classify(self, images, labels=labels, top_k=top_k, reject_below=reject_below, priors=priors)

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
        if method.text_depends_on_image:
            size = next(len(t) for t in (batch.features, batch.pixels) if t is not None)
            parts = [
                self._score_part(method, batch.part(start, start + CONDITIONAL_CHUNK), text)
                for start in range(0, max(size, 1), CONDITIONAL_CHUNK)
            ]
            logits, similarities = torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])
        else:
            logits, similarities = self._score_part(method, batch, text)
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

    def _score_part(self, method: Method, batch: ImageBatch, text: Tensor | None) -> tuple[Tensor, Tensor]:
        output = method(batch, text)
        if output.text_features is None:
            similarity = output.logits / method.scale
        elif output.text_features.dim() == 3:
            similarity = torch.einsum("bd,bkd->bk", output.image_features, output.text_features)
        else:
            similarity = output.image_features @ output.text_features.t()
        return output.logits, similarity

    def _for_labels(self, labels: Sequence[str]) -> tuple[Method, Tensor | None, list[int] | None]:
        """Return the method, its text features and the columns to keep for other labels."""
        key, columns = chosen(labels, self.labels)
        return (self.method, self._text, columns) if columns is not None else (*self._method_for(key), None)

    def _method_for(self, key: tuple[str, ...]) -> tuple[Method, Tensor | None]:
        """Return the method for labels of which some are new, and its text features."""
        with self._lock:
            known = self._others.get(key)
            if known is not None:
                self._others.move_to_end(key)
                return known
        from npt_core.clip.tokens import ClassPrompt

        own = dict(zip(self.labels, self.method.classes, strict=True))
        classes = [own.get(label) or ClassPrompt(label) for label in key]
        method = self.method.with_classes(classes).eval()
        text = method.encode_text() if self._cacheable else None
        with self._lock:
            self._others[key] = (method, text)
            while len(self._others) > LABEL_SETS_KEPT:
                self._others.popitem(last=False)
        return method, text

    # --- the artefact -------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return what the safetensors file holds."""
        tensors = {LEARNED + name: value.detach() for name, value in self.method.state_dict().items()}
        if self._text is not None:
            tensors[TEXT_FEATURES] = self._text.detach()
        if self.memory is not None:
            tensors[MEMORY] = self.memory
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
        write(folder / TENSOR_FILE, safetensors.torch.save(self.tensors(), {"format": "pt"}))
        if self.report is not None:
            write(folder / REPORT_FILE, json.dumps(self.report, indent=1).encode())
        write(folder / MANIFEST_FILE, json.dumps(self.manifest, indent=1).encode())

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
    def load(cls, path: Path | str, backbone: Backbone | str | None = None, *, story: bool = True) -> Self:
        """Load a saved classifier. Who answers many questions keeps it as `npt_core.serving.resident` does.

        Args:
            path: The folder where it was saved, or a zip as a server exports it.
            backbone: The very one it was tuned on: loaded (who loads several classifiers loads it once), or the words
                of `load_backbone`. None: a published one is found by the name that the classifier keeps.
            story: Keep what answers do not need: the report, the images it was tuned on, what is remembered of them.

        Raises:
            FingerprintMismatchError: Another backbone, or other preprocessing.
            UnknownBackboneError: None was given, and it was tuned on one that is not published.
            BackboneUnavailableError: The backbone's weights cannot be had.
            ArtefactError: The files cannot be read, are over a limit, or do not fit the manifest.
            BundleError, ArchiveError: The zip is no exported model, or a hostile one.
        """
        with saved_folder(path) as folder:
            return cls._load(folder, Path(path).name, backbone, story)

    @classmethod
    def _load(cls, folder: Path, name: str, given: Backbone | str | None, story: bool) -> Self:
        manifest = cls.read_manifest(folder)
        expected = str(manifest["backbone"].get("fingerprint", ""))
        backbone = backbone_of(manifest, given, f"Classifier {name!r}")
        backbone.require_fingerprint(expected, what=f"Classifier {name!r}")
        backbone = backbone.with_resize(resize_of(manifest))
        method = build(manifest, backbone)
        text, memory = read_learned(folder / TENSOR_FILE, method)
        if not story:
            kept = ("format", "method", "method_config", "classes", "backbone", *Manner.KEYS)
            return cls(method, {key: manifest[key] for key in kept if key in manifest}, None, text)
        return cls(method, manifest, read_report(folder / REPORT_FILE), text, memory)


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


__all__ = [
    "MANIFEST_FORMAT",
    "Classifier",
    "IncompatibleError",
    "Scores",
    "describe_class",
    "read_tensors",
    "zero_shot",
]
