"""The first thing to read: how good, better than zero-shot or not, what is weak, what to do next."""

from __future__ import annotations

from collections.abc import Iterator

from npt_core.report.blocks import Block, Bullets, Facts, Notice, Numbers, Section, Text
from npt_core.report.facts import (
    MINUS,
    NBSP,
    count,
    entries,
    known,
    listed,
    mapping,
    moment,
    number,
    p_value,
    percent,
    plain,
    points,
    share,
    text,
    things,
)
from npt_core.report.measured import ClassScore, Measured, Scores
from npt_core.report.statistics import paired_interval

SURE = 0.05
"""Of two classifiers the better one is named where McNemar's p is below this."""

WEAK_F1 = 0.9
WIDE = 0.12
"""An interval wider than this is called wide."""

SHARP_ERROR = 0.1
MAX_WARNINGS = 50


def verdict(found: Measured) -> Section:
    """Say in words what the numbers come to."""
    blocks: list[Block] = [*_judged(found)]
    for title, lines in (
        ("What is weak", list(_weak(found))),
        ("What to do next", list(_steps(found))),
        ("Warnings of the tuning", _warnings(found)),
    ):
        if lines:
            blocks.append(Bullets(lines, title))
    blocks.append(Facts(_facts(found)))
    return Section("verdict", "In short", blocks)


def _warnings(found: Measured) -> list[str]:
    told = entries(found.report, "warnings")
    return [text(one, limit=600) for one in told if isinstance(one, str)][:MAX_WARNINGS]


def _judged(found: Measured) -> Iterator[Block]:
    if not found.tuned.known:
        yield Notice("warn", "The tuned classifier was not measured.", _why_not(found))
        if found.zero_shot.known:
            images = things(found.zero_shot.count or 0, "image")
            yield Text(
                f"Zero-shot, which learns from no image, is right on {percent(found.zero_shot.accuracy)} of {images}."
            )
        return
    yield Numbers(tuple(_numbers(found)))
    if found.learned:
        yield from _against_zero_shot(found)
    else:
        yield Notice("info", "This is the zero-shot classifier.", "Nothing was learned from the images.")
    yield Text(_how(found), quiet=True)


def _numbers(found: Measured) -> Iterator[tuple[str, str, str, str]]:
    tuned, before = found.tuned, found.zero_shot

    def within(scores: Scores) -> str:
        ends = scores.interval
        return f"95{NBSP}% interval {percent(ends[0])} to {percent(ends[1])}" if ends else ""

    yield percent(tuned.accuracy), "right, tuned", within(tuned), "two"
    if found.learned and before.accuracy is not None and tuned.accuracy is not None:
        yield percent(before.accuracy), "right, zero-shot", within(before), "one"
        yield points(tuned.accuracy - before.accuracy), "points of difference", _interval_of_difference(found), ""
    seen = "not seen in tuning" if found.learned else "of the data set"
    yield plain(tuned.count), "images measured on", seen, ""


def _interval_of_difference(found: Measured) -> str:
    paired = mapping(found.report, "metrics", "paired")
    gained, lost = count(paired, "only_tuned_right"), count(paired, "only_zero_shot_right")
    if gained is None or lost is None:
        return ""
    ends = paired_interval(gained, lost, found.tuned.count or 0)
    return f"95{NBSP}% interval {points(ends[0])} to {points(ends[1])}" if ends else ""


def _why_not(found: Measured) -> str:
    reason = text(found.report, "evaluation", "reason", limit=400)
    return _sentence(reason) if known(found.report, "evaluation", "reason") else "The report does not say why."


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def _how(found: Measured) -> str:
    reason = text(found.report, "evaluation", "reason", limit=400)
    if not known(found.report, "evaluation", "reason"):
        return "The report does not say how it was measured."
    words = f"How it was measured: {reason.rstrip('.')}."
    if found.report.get("refitted") is True:
        words += " So the numbers are those of the tuning before the last one; the model you use has seen more."
    return words


def _against_zero_shot(found: Measured) -> Iterator[Block]:
    before, after = found.zero_shot.accuracy, found.tuned.accuracy
    if before is None or after is None:
        yield Text("Zero-shot was not measured, so there is nothing to compare with.")
        return
    paired = mapping(found.report, "metrics", "paired")
    gained, lost = count(paired, "only_tuned_right"), count(paired, "only_zero_shot_right")
    p = share(paired, "p_value")
    words = []
    if gained is not None and lost is not None:
        words.append(f"Tuning put {things(gained, 'image')} right that zero-shot had wrong, and {lost:,} wrong.")
    if p is not None:
        words.append(f"McNemar's exact test: p {p_value(p)}.")
    if p is not None and p < SURE and after != before:
        better = after > before
        title = "Better than zero-shot." if better else "Worse than zero-shot."
        yield Notice("good" if better else "bad", title, " ".join(words))
        return
    words.append("On these images the two cannot be told apart.")
    yield Notice("info", "No clear difference to zero-shot.", " ".join(words))


def weakest(found: Measured, limit: int) -> list[ClassScore]:
    """Return classes with mistakes, the lowest F1 first; of equal ones those with more images."""
    rows = [one for one in found.tuned.classes if one.f1 is not None and one.f1 < 1]
    return sorted(rows, key=lambda one: (one.f1 or 0.0, -(one.support or 0)))[:limit]


def _weak(found: Measured) -> Iterator[str]:
    if not found.tuned.known:
        return
    pairs = found.tuned.pairs[:3]
    if pairs:
        said = [f"“{one.label}” is taken for “{one.predicted}” ({things(one.count, 'image')})" for one in pairs]
        yield f"Confused most: {listed(said)}."
    elif found.tuned.accuracy == 1:
        yield "No mistake among the measured images; on so many it may still make some."
    low = [one for one in weakest(found, 3) if (one.f1 or 0.0) < WEAK_F1]
    if low:
        yield "Lowest F1: " + listed([f"“{one.label}” with {one.f1:.2f}" for one in low]) + "."
    old = mapping(found.report, "parent", "old_accuracy")
    change, p = number(old, "change"), share(old, "p_value")
    if change is not None and change < 0 and p is not None and p < SURE:
        yield f"The classes it had before lost {points(-change).lstrip('+')} points; see “Going on from a model”."
    if found.tuned.error is not None and found.tuned.error > SHARP_ERROR and not mapping(found.report, "calibration"):
        yield f"Its confidence is off by {percent(found.tuned.error)} on average."


def _steps(found: Measured) -> Iterator[str]:
    before, after = found.zero_shot.accuracy, found.tuned.accuracy
    if found.learned and before is not None and after is not None and after <= before:
        yield "Tuning brought nothing that could be measured: model=zero-shot does as well, until more images help."
    yield from _audit_steps(found)
    for one in [one for one in weakest(found, 2) if (one.f1 or 0.0) < WEAK_F1]:
        has = found.train_counts.get(one.label)
        rivals = [pair for pair in found.tuned.pairs if one.label in (pair.label, pair.predicted)][:1]
        other = [name for pair in rivals for name in (pair.label, pair.predicted) if name != one.label]
        yield (
            f"More images of “{one.label}”"
            + (f" ({has:,} now)" if has is not None else "")
            + (f", above all such as look like “{other[0]}”." if other else ".")
        )
    ends = found.tuned.interval
    if found.tuned.known and ends and ends[1] - ends[0] > WIDE:
        yield (
            f"Measure on more than {things(found.tuned.count or 0, 'image')}: the interval is "
            f"{100 * (ends[1] - ends[0]):.0f} points wide. A test split in the zip, or /compare on other "
            "images, narrows it."
        )
    elif not found.tuned.known:
        yield "Give every class at least 4 images, or the zip a test split, and tune again: then it can be measured."
    threshold = share(found.report, "calibration", "recommended", "threshold")
    if (
        threshold and share(found.manifest, "calibration", "reject_below") != threshold
    ):  # else the model does it by itself
        yield f"Predict with reject_below={threshold:.2f} where a wrong answer costs more than none; see below."


def _audit_steps(found: Measured) -> Iterator[str]:
    doubtful = found.findings("likely-label-error")
    total = sum(count(one, "count") or 0 for one in doubtful)
    if total:
        paths = [text(path) for one in doubtful for path in entries(one, "paths") if isinstance(path, str)]
        yield f"Look at {things(total, 'image')} that may carry a wrong label: {listed(paths, 3)}."
    for kind, advice in _ADVICE.items():
        if found.findings(kind):
            yield advice


_ADVICE = {
    "near-duplicate-across-splits": "Remove copies of training images from the test part: the numbers are too good.",
    "duplicate-across-splits": "Remove files that are in two splits: the numbers are too good.",
    "near-duplicate-across-classes": "Decide which label the pictures have that are in two classes.",
    "imbalance": "Classes are uneven: tune with logit_adjustment, see the audit.",
    "class-name-unseen": "Some class names are words the backbone never saw: say them in other words with class_names.",
    "class-names-alike": "Some class names are nearly the same to the backbone: tell them apart with class_names.",
}


def _facts(found: Measured) -> list[tuple[str, str]]:
    report, manifest, subject = found.report, found.manifest, found.subject
    seconds = [number(value) for value in list(mapping(report, "seconds").values())[:50]]
    backbone = mapping(report, "backbone") or mapping(manifest, "backbone")
    rows = [
        ("Method", found.method),
        ("Regulariser", text(report, "config", "regularizer")),
        ("Backbone", f"{text(backbone, 'name')} ({text(backbone, 'precision')})"),
        ("Classes", plain(len(found.tuned.classes or found.zero_shot.classes) or None)),
        ("Images learned from", plain(count(report, "evaluation", "ship_count"))),
        ("Images measured on", plain(count(report, "evaluation", "test_count"))),
        ("Share of the tuned answer", plain(manifest.get("tuned_share", 1.0), 2)),
        ("Time", f"{plain(sum(value for value in seconds if value is not None), 1)} s" if seconds else plain(None)),
        ("Made", moment(manifest.get("created_at"))),
    ]
    refused = share(manifest, "calibration", "reject_below")
    if refused:
        rows.append(("Answers rejected below", percent(refused)))
    if subject.id:
        rows.insert(0, ("Model", text(subject.id)))
    return [(name, value.replace("-", MINUS) if name == "Time" else value) for name, value in rows]
