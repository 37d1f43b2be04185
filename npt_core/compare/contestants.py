"""Ask classifiers about labelled images, a chunk at a time: memory does not grow with images times classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from npt_core.classifier import Classifier, Scores, zero_shot
from npt_core.clip.tokens import ClassPrompt
from npt_core.compare.verdict import Answers, Comparison, judge
from npt_core.continual.old import Lineage
from npt_core.data.thumbnails import THUMBNAIL_SIDE, thumbnail
from npt_core.errors import DatasetError, Fault, ImageError, IncompatibleError
from npt_core.tuning.control import Control, GoOn, ProgressSink
from npt_core.tuning.features import FeatureCache, FeatureSet, PixelSource, encode_dataset
from npt_core.tuning.meter import Meter

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset

CHUNK, CHUNK_TOKENS, CHUNK_PIXELS = 1024, 128, 32
ZERO_SHOT = "zero-shot"

Among = Literal["own", "dataset"]
Seen = Literal["leave-out", "keep"]


@dataclass(frozen=True)
class Contestant:
    """A classifier to be judged.

    Attributes:
        name: What it is called in the comparison; different for each.
        load: Returns it on a backbone; called when its backbone's turn has come.
        backbone: Name of that backbone.
        manifest: What is known of it: `classes`, `samples`.
        facts: Passed on into the comparison.
    """

    name: str
    load: Callable[[Backbone], Classifier]
    backbone: str
    manifest: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> list[ClassPrompt]:
        """Its own classes."""
        return [ClassPrompt(one["label"], one["name"], tuple(one["phrasings"])) for one in self.manifest["classes"]]

    @property
    def trained_on(self) -> frozenset[str]:
        """SHA-256 of the images it was tuned on."""
        return Lineage.of(self.manifest).samples


def compare(
    dataset: Dataset,
    contestants: Sequence[Contestant],
    backbones: Callable[[str], Backbone],
    *,
    split: str | None = None,
    among: Among = "own",
    seen: Seen = "leave-out",
    cache: FeatureCache | None = None,
    control: Control | None = None,
    progress: ProgressSink | None = None,
) -> Comparison:
    """Judge classifiers on labelled images, zero-shot on each of their backbones beside them.

    Args:
        dataset: Labelled images.
        contestants: At least one.
        backbones: Returns a backbone by name; asked for one after the other.
        split: Only images of this split; None: the test split where there is one, else every image.
        among: `own`: each chooses among its own classes, as it does when it serves; zero-shot among all that any of
            them has. `dataset`: all choose among the data set's classes, new names through the learned prompt.
        seen: What becomes of images that a contestant was tuned on: `leave-out` judges nobody on them.
        cache: Image features of earlier work.
        control: Checked for every image and chunk.
        progress: Told where the work stands.

    Raises:
        DatasetError: No image is left to judge on; the message says why.
        IncompatibleError: `among="dataset"` and a contestant takes no new class names.
        StopTuning: `control` asked to stop.
    """
    control, meter = control or GoOn(), Meter(progress)
    panel = _Panel(dataset, contestants, among)
    choice = choose_images(dataset, contestants, split, seen)
    asking = _Asking(dataset, choice.indices, panel, cache, control, meter)
    groups = panel.by_backbone()
    asking.expect(len(groups))
    meter.enter("evaluating")
    for name, group in groups.items():
        control.check()
        asking.everybody(name, backbones(name), group)
    asking.leave_out_unreadable()
    verdict = judge(
        [dataset.samples[index] for index in asking.readable],
        asking.answers,
        {
            "id": dataset.id,
            "split": choice.split,
            "classes": list(dataset.labels),
            "unreadable": [{"path": fault.path, "message": fault.message} for fault in asking.bad.values()],
            "tuned_on": choice.tuned_on,
            "copies": choice.copies,
            "seen": seen,
            "among": among,
        },
    )
    _add_thumbnails(dataset, verdict.disagreements, control)
    return verdict


def _add_thumbnails(dataset: Dataset, disagreements: Sequence[dict[str, Any]], control: Control) -> None:
    """Give each a small picture as a data URI, or None: whoever reads it may not have the data set any more."""
    samples = {sample.path: sample for sample in dataset.samples}
    for one in disagreements:
        control.check()
        try:
            one["image"] = thumbnail(dataset.open_image(samples[one["path"]], target=THUMBNAIL_SIDE))
        except (ImageError, OSError):  # it could be read a moment ago
            one["image"] = None


class _Panel:
    """Who chooses among what."""

    def __init__(self, dataset: Dataset, contestants: Sequence[Contestant], among: Among) -> None:
        self.contestants, self.among = contestants, among
        self.labels = tuple(dataset.labels) if among == "dataset" else None
        named = {label: ClassPrompt(label, i.name, tuple(i.phrasings)) for label, i in dataset.prompts.items()}
        if among == "own":
            for one in reversed(contestants):
                named |= {known.label: known for known in one.classes}
        self.zero_shot_classes = list(named.values())

    def by_backbone(self) -> dict[str, list[Contestant]]:
        groups: dict[str, list[Contestant]] = {}
        for one in self.contestants:
            groups.setdefault(one.backbone, []).append(one)
        return groups

    def labels_for(self, classifier: Classifier, name: str) -> tuple[str, ...] | None:
        """What a classifier is told to choose among; None: its own classes."""
        if self.labels is None or name == ZERO_SHOT:
            return None
        refusal = classifier.new_classes_refusal()
        strange = [label for label in self.labels if label not in classifier.labels]
        if refusal and strange:
            listed = ", ".join(map(repr, strange[:5]))
            raise IncompatibleError(
                f"The model {name} cannot choose among the data set's classes ({listed}): {refusal}. Compare among "
                "their own classes."
            )
        return self.labels


@dataclass(frozen=True)
class Choice:
    """Which images are judged on.

    Attributes:
        split: Their split; None: all.
        indices: Their positions in the data set.
        tuned_on: How many of the split's images a contestant was tuned on.
        copies: How many files were left out because another one has the same bytes and the same label.
    """

    split: str | None
    indices: list[int]
    tuned_on: int
    copies: int = 0


def choose_images(dataset: Dataset, contestants: Sequence[Contestant], split: str | None, seen: Seen) -> Choice:
    """Return the images to judge on, each once: ten copies of one image are no ten independent trials of a test.

    Raises:
        DatasetError: No such split, or every image of it was used to tune one of them.
    """
    splits = {one.split for one in dataset.samples}
    where = ("test" if "test" in splits else None) if split is None else split
    if where is not None and where not in splits:
        known = ", ".join(sorted(splits - {""})) or "none"
        raise DatasetError(f"The data set has no split {where!r}; its splits: {known}.")
    files = [(i, one) for i, one in enumerate(dataset.samples) if where is None or one.split == where]
    first = {(one.sha256, one.label): i for i, one in reversed(files)}
    indices = sorted(first.values())
    copies = len(files) - len(indices)
    used = frozenset[str]().union(*(one.trained_on for one in contestants))
    fresh = [i for i in indices if dataset.samples[i].sha256 not in used]
    if seen == "keep":
        return Choice(where, indices, len(indices) - len(fresh), copies)
    if not fresh:
        raise DatasetError(
            f"All {len(indices)} images were used to tune one of the models, so they cannot tell how good it is: send "
            "images that no model was tuned on, or ask for these all the same with seen=keep."
        )
    return Choice(where, fresh, len(indices) - len(fresh), copies)


class _Asking:
    """The questions and the answers."""

    def __init__(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        panel: _Panel,
        cache: FeatureCache | None,
        control: Control,
        meter: Meter,
    ) -> None:
        self._dataset, self._indices, self._panel = dataset, indices, panel
        self._cache, self._control, self._meter = cache, control, meter
        self.answers: list[Answers] = []
        self.bad: dict[str, Fault] = {}
        self.readable: list[int] = list(indices)

    def expect(self, rounds: int) -> None:
        """So many more rounds over all images lie ahead."""
        for kind in ("encoding", "asking"):
            self._meter.expect(kind, self._meter.expected(kind) + rounds * len(self._indices))

    def everybody(self, name: str, backbone: Backbone, group: Sequence[Contestant]) -> None:
        """Ask zero-shot and all contestants of one backbone; those that fit images in the same way share encodings."""
        loaded = [(one, one.load(backbone)) for one in group]
        ways = list(dict.fromkeys(classifier.backbone.resize for _, classifier in loaded))
        self.expect(len(ways) - 1)
        for resize in ways:
            same = [(one.name, self._facts(one, it), it) for one, it in loaded if it.backbone.resize == resize]
            plain = zero_shot(same[0][2].backbone, self._panel.zero_shot_classes)
            self._ask([(ZERO_SHOT, {"backbone": name, "resize": resize}, plain), *same])

    def _facts(self, one: Contestant, classifier: Classifier) -> dict[str, Any]:
        manifest = classifier.manifest
        here = bool(manifest.get("calibration")) and manifest.get("dataset_id") == self._dataset.id
        return {**one.facts, "calibrated_here": here}

    def _ask(self, asked: Sequence[tuple[str, Mapping[str, Any], Classifier]]) -> None:
        classifiers = [classifier for _, _, classifier in asked]
        labels = [self._panel.labels_for(classifier, name) for name, _, classifier in asked]
        answers = [
            Answers(name, dict(facts), names or classifier.labels)
            for (name, facts, classifier), names in zip(asked, labels, strict=True)
        ]
        tokens = any(one.needs_tokens for one in classifiers)
        size = CHUNK_TOKENS if tokens else CHUNK
        for start in range(0, len(self._indices), size):
            part, before = self._indices[start : start + size], self._meter.done("encoding")
            found = encode_dataset(
                classifiers[0].backbone,
                self._dataset,
                part,
                cache=self._cache,
                control=self._control,
                progress=self._encoded,
                with_tokens=tokens,
            )
            # An image that is there twice, or cannot be read, was no work.
            self._meter.skip("encoding", before + len(part) - self._meter.done("encoding"))
            self.bad |= {fault.path: fault for fault in found.bad}
            truth = [self._dataset.samples[index].label for index in found.indices]
            for one, classifier, names in zip(answers, classifiers, labels, strict=True):
                for rows, scores in self._scores(classifier, names, found):
                    one.add([found.indices[row] for row in rows], [truth[row] for row in rows], scores)
            self._meter.advance("asking", len(part))
            self._meter.report(force=True)
        self.answers += answers

    def _encoded(self, encoded: int, cached: int) -> None:
        self._meter.skip("encoding", cached)
        self._meter.advance("encoding", encoded)
        self._meter.report()

    def _scores(
        self, classifier: Classifier, names: tuple[str, ...] | None, found: FeatureSet
    ) -> Iterator[tuple[range, Scores]]:
        """Scores of encoded images, some rows at a time."""
        backbone, indices = classifier.backbone, found.indices
        size = CHUNK_PIXELS if classifier.needs_pixels else CHUNK_TOKENS
        pixels = PixelSource(backbone, self._dataset, indices, max_bytes=0) if classifier.needs_pixels else None
        try:
            for start in range(0, len(indices), size):
                self._control.check()
                rows = range(start, min(start + size, len(indices)))
                if pixels is not None:
                    yield rows, classifier.predict(pixels.batch(rows, [0] * len(rows)), labels=names)
                    continue
                tokens = found.tokens[rows.start : rows.stop, 0] if found.tokens is not None else None
                images = found.features[rows.start : rows.stop, 0]
                yield rows, classifier.predict(images, labels=names, tokens=tokens if classifier.needs_tokens else None)
        finally:
            if pixels is not None:
                pixels.close()

    def leave_out_unreadable(self) -> None:
        """Judge everybody on the images that every backbone could read.

        Raises:
            DatasetError: There is none.
        """
        read = set(self._indices).intersection(*(one.indices for one in self.answers))
        self.readable = [index for index in self._indices if index in read]
        if not self.readable:
            raise DatasetError(
                "None of the images can be read, so there is nothing to compare on.", list(self.bad.values())
            )
        for one in self.answers:
            one.keep(self.readable)
