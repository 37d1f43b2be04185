"""A saved classifier as a server keeps it: what answers need is in memory, the rest is in its file until it is needed.

A classifier that answers from fixed text features and frozen image features is (K, d) numbers and its labels. What was
learned (a context, say) is read again when somebody names classes it was not tuned on, and let go: what is kept then is
the text features of those names. Other methods compute with what they learned and are kept whole, without their story.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from npt_core.artefact import TENSOR_FILE
from npt_core.calibration import Calibration
from npt_core.classifier import LABEL_SETS_KEPT, Classifier
from npt_core.errors import ConfigError, IncompatibleError
from npt_core.mixture import mixed
from npt_core.saved import TEXT_FEATURES, checked_text, described, resize_of
from npt_core.scores import Manner, Scores, chosen
from npt_core.tensorfile import read_tensor

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone

Words = tuple[Tensor, Tensor | None]
"""(K, d) text features of the tuned prompt; and of plain zero-shot, where answers are mixed with it and it is known."""

TENSOR_BYTES = 512
"""The object around a tensor's numbers, as measured."""
OBJECT_BYTES = 4096
"""Everything else that is not text or numbers: attributes, locks, containers."""


def load_resident(
    folder: Path | str, backbone: Backbone, again: Callable[[], Path] | None = None
) -> Resident | Classifier:
    """Load a saved classifier to answer with.

    Args:
        folder: Where it was saved.
        backbone: The very one it was tuned on.
        again: For `look_again`: gives the folder once more, and may raise whatever speaks against reading it. By
            default it is where it was.

    Raises:
        FingerprintMismatchError: Another backbone, or other preprocessing.
        ArtefactError: The files cannot be read, are over a limit, or do not fit the manifest. What is read later is
            judged later.
    """
    folder = Path(folder)
    manifest = Classifier.read_manifest(folder)
    backbone.require_fingerprint(str(manifest["backbone"].get("fingerprint", "")), what=f"Classifier {folder.name!r}")
    found = described(manifest)
    text = read_tensor(folder / TENSOR_FILE, TEXT_FEATURES) if found.method.answers_from_text() else None
    if text is None:
        return Classifier.load(folder, backbone, story=False)
    labels = tuple(one.label for one in found.classes)
    place = [folder]

    def look() -> None:
        if again is not None:
            place[0] = again()

    return Resident(
        Manner.of(manifest, labels),
        backbone.with_resize(resize_of(manifest)),
        checked_text(text, len(labels), backbone.d),
        whole=lambda: Classifier.load(place[0], backbone, story=False),
        look=look,
        refusal=found.method.refuses_new_classes(found.config),
    )


def keep_resident(classifier: Classifier, whole: Callable[[], Classifier]) -> Resident | Classifier:
    """Keep of a classifier that is nowhere saved what it answers with; `whole` makes it again."""
    text = classifier.text_features if type(classifier.method).answers_from_text() else None
    if text is None:
        return classifier
    manner = Manner.of(classifier.manifest, classifier.labels)
    return Resident(manner, classifier.backbone, text.cpu(), whole=whole, refusal=classifier.new_classes_refusal())


class Resident:
    """A classifier of text features alone; on the CPU it answers as the whole `Classifier` does, to the bit.

    It computes on the CPU wherever the towers are: a product this small would wait in an accelerator's queue behind the
    pictures of others, and thousands of classifiers leave its memory alone.

    Args:
        manner: Its labels and how logits become answers.
        backbone: Whose image features it takes.
        text: (K, d) unit-norm text features of its own classes; CPU.
        whole: Gives the classifier with everything it learned, from its file.
        look: Finds that file, and judges it.
        refusal: Why it takes no other names than its own, or None.
    """

    needs_pixels = needs_tokens = False
    computes_here = True
    """Answers among its own classes are a small product on the CPU."""

    def __init__(
        self,
        manner: Manner,
        backbone: Backbone,
        text: Tensor,
        *,
        whole: Callable[[], Classifier],
        refusal: str | None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.backbone = backbone
        self._manner, self._whole, self._refusal, self._look = manner, whole, refusal, look
        self._own: Words = (text, None)
        self._others: OrderedDict[tuple[str, ...], Words] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """Its own classes, in the order of its answers."""
        return self._manner.labels

    @property
    def calibration(self) -> Calibration:
        """Its temperature, and how it was found."""
        return self._manner.calibration

    @property
    def tuned_share(self) -> float:
        """How much of the answer is tuned; the rest is plain zero-shot."""
        return self._manner.tuned_share

    @property
    def nbytes(self) -> int:
        """Memory of everything it keeps, its labels and those of the other names it was asked among included."""
        with self._lock:
            words, names = [self._own, *self._others.values()], [self.labels, *self._others]
        tensors = [tensor for pair in words for tensor in pair if tensor is not None]
        text = sum(sys.getsizeof(labels) + sum(map(sys.getsizeof, labels)) for labels in names)
        return OBJECT_BYTES + text + sum(tensor.nbytes + TENSOR_BYTES for tensor in tensors)

    def new_classes_refusal(self) -> str | None:
        """Say why it cannot classify among other names than its own; None where it can."""
        return self._refusal

    def is_ready(self, labels: Sequence[str] | None = None) -> bool:
        """Whether `predict` among these names reads no file and runs no tower: a matrix product or two."""
        with self._lock:
            words = self._own if labels is None or set(labels) <= set(self.labels) else self._others.get(tuple(labels))
        return words is not None and (words[1] is not None or self.tuned_share == 1.0)

    def look_again(self) -> None:
        """Find its file for an answer that it is not ready for: on any thread, since a disk or a network may take long.

        Raises:
            Exception: Whatever speaks against reading it.
        """
        self._look()

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        *,
        labels: Sequence[str] | None = None,
        tokens: Tensor | None = None,
        priors: Mapping[str, float] | None = None,
    ) -> Scores:
        """Classify images; see `Classifier.predict`.

        Args:
            images: (B, d) features of `backbone.encode_images`.
            labels: Classify among these names in place of its own. New ones make it read its file and run the text
                tower, once for each set of names as long as that is kept.
            tokens: Not looked at.
            priors: How often each label occurs where the answers are used.

        Raises:
            IncompatibleError: New names, and what was learned belongs to its own classes.
            ArtefactError: Its file is needed and cannot be read.
            ConfigError, PromptError: As for `Classifier.predict`.
        """
        names, columns = (self.labels, None) if labels is None else chosen(labels, self.labels)
        ratio = self._manner.log_ratio(names, priors)
        if images.dim() != 2 or images.shape[1] != self.backbone.d:
            raise ConfigError(f"It predicts on (B, {self.backbone.d}) features; got shape {tuple(images.shape)}.")
        text, plain = self._words(None if labels is None or columns is not None else names)
        images = images.cpu()
        # In the order of `Method.logits`, so that the last bits agree.
        scale = float(self.backbone.logit_scale)
        logits, cosines = scale * images @ text.t(), images @ text.t()
        if plain is not None:
            untuned = images @ plain.t()
            logits = mixed(logits, scale * untuned, self.tuned_share)
            cosines = mixed(cosines, untuned, self.tuned_share)
        if columns is not None:
            logits, cosines = logits[:, columns], cosines[:, columns]
        return self._manner.scores(names, logits, cosines, ratio)

    def _words(self, names: tuple[str, ...] | None) -> Words:
        """Return the features of names, None being its own; from its file where they are not in memory."""
        with self._lock:
            known = self._own if names is None else self._others.get(names)
            if names is not None and known is not None:
                self._others.move_to_end(names)
        if known is not None and (known[1] is not None or self.tuned_share == 1.0):
            return known
        if names is not None and self._refusal is not None:
            # The whole classifier says the same in more words; it need not be read for that.
            raise IncompatibleError(f"This classifier cannot take other class names: {self._refusal}.")
        found = self._whole().text_for(self.labels if names is None else names)
        text, plain = found[0].cpu(), None if found[1] is None else found[1].cpu()
        with self._lock:
            if names is None:
                self._own = (self._own[0], plain)
                return self._own
            self._others[names] = (text, plain)
            while len(self._others) > LABEL_SETS_KEPT:
                self._others.popitem(last=False)
        return text, plain
