"""A comparison of models as one HTML page. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from npt_core.report.blocks import (
    Block,
    Bullets,
    Columns,
    Facts,
    Figure,
    Fold,
    Notice,
    Numbers,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    image_uri,
    worst_rows,
)
from npt_core.report.charts import Estimate, interval_chart
from npt_core.report.facts import (
    count,
    entries,
    interval,
    listed,
    mapping,
    number,
    objects,
    p_value,
    percent,
    plain,
    points,
    share,
    text,
)
from npt_core.report.page import render_page

MAX_ROWS = 60
SCORES = ("precision", "recall", "f1")
KINDS = ("two", "one", "three", "four")


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Return a self-contained page of a comparison.

    Args:
        comparison: As `compare.Comparison.to_dict` made it; what is missing or of another kind is said to be not known.
    """
    table = objects(comparison, "contestants")
    names = {text(one, "name"): called(one) for one in table}
    images = plain(mapping(comparison, "dataset").get("images"))
    subtitle = f"{plain(len(table))} ways to answer, judged on the same {images} images."
    sections = [
        _verdict(comparison, table),
        _accuracy(table),
        _pairs(comparison, names),
        _disagreements(comparison, names),
        _classes(table),
        _dataset(comparison),
    ]
    return render_page("Which model is better", subtitle, sections)


def called(entry: Mapping[str, Any]) -> str:
    """What people call a contestant: its title and version where it has them."""
    title, version = entry.get("title"), count(entry, "version")
    return (
        f"{text(title, limit=60)} v{version}" if isinstance(title, str) and version else text(entry, "name", limit=60)
    )


def _verdict(comparison: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> Section:
    test = mapping(comparison, "test")
    sure = test.get("significant") is True
    title = "One is better" if sure else "The lead can be chance"
    blocks: list[Block] = [Notice("good" if sure else "info", title, text(test, "words", limit=400))]
    if len(table) > 1:
        best, second = table[0], table[1]
        blocks.append(
            Numbers(
                [
                    (percent(share(best, "metrics", "accuracy")), called(best), _between(best), "two"),
                    (percent(share(second, "metrics", "accuracy")), called(second), _between(second), "one"),
                    (points(number(test, "difference")), "points between them", f"p {p_value(test.get('p_holm'))}", ""),
                ]
            )
        )
    warnings = [text(one, limit=400) for one in entries(comparison, "warnings") if isinstance(one, str)]
    if warnings:
        blocks.append(Bullets(warnings[:20], "What to know"))
    return Section("verdict", "Verdict", blocks)


def _between(entry: Mapping[str, Any]) -> str:
    found = interval(entry, "metrics", "accuracy_interval")
    return f"{percent(found[0])} to {percent(found[1])}" if found else ""


def _accuracy(table: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        Estimate(called(one), accuracy, interval(one, "metrics", "accuracy_interval"), KINDS[min(place, 3)])
        for place, one in enumerate(table)
        if (accuracy := share(one, "metrics", "accuracy")) is not None
    ]
    cells = []
    for one in table:
        metrics = mapping(one, "metrics")
        cells.append(
            [
                called(one),
                text(one, "method") if one.get("method") else "zero-shot",
                text(one, "backbone"),
                percent(share(metrics, "accuracy")),
                percent(share(metrics, "macro", "f1")),
                percent(share(metrics, "calibration_error")),
                plain(number(metrics, "nll")),
                plain(one.get("classes")),
            ]
        )
    columns = ["", "Method", "Backbone", "Accuracy", "Macro F1", "Calibration error", "NLL, nats", "Classes"]
    blocks: list[Block] = []
    if rows:
        drawing = interval_chart("Accuracy with its 95 % interval", rows)
        blocks.append(Figure("Accuracy", drawing, "Share of images that were right; the bar is the 95 % interval."))
    blocks.append(Table("Best first", columns, cells, frozenset({3, 4, 5, 6, 7})))
    return Section("accuracy", "All of them", blocks)


def _pairs(comparison: Mapping[str, Any], names: Mapping[str, str]) -> Section:
    rows = [
        [
            f"{_named(one, 'first', names)} – {_named(one, 'second', names)}",
            points(number(one, "difference")),
            plain(one.get("only_first_right")),
            plain(one.get("only_second_right")),
            p_value(one.get("p_holm")).removeprefix("=").strip(),
            "yes" if one.get("significant") is True else "no",
        ]
        for one in objects(comparison, "pairs")
    ]
    shown, more = worst_rows(rows, MAX_ROWS, "pairs")
    columns = ["Pair", "Difference, points", "Only the first right", "Only the second right", "p", "Significant"]
    words = (
        "McNemar's exact test on the images where the two differ. p is corrected for the number of pairs that were "
        "looked at (Holm); below 0.05 the difference is called significant."
    )
    blocks: list[Block] = [Text(words, quiet=True), Table("Every pair", columns, shown, frozenset({1, 2, 3, 4}), more)]
    return Section("pairs", "Two by two", blocks)


def _named(entry: Mapping[str, Any], key: str, names: Mapping[str, str]) -> str:
    name = text(entry, key)
    return names.get(name, name)


def _disagreements(comparison: Mapping[str, Any], names: Mapping[str, str]) -> Section:
    shown = []
    for one in objects(comparison, "disagreements")[:MAX_ROWS]:
        lines = [f"“{text(one, 'label')}”"]
        for name, answer in list(mapping(one, "answers").items())[:2]:
            said = f"“{text(answer, 'label')}”, {percent(share(answer, 'probability'), 0)}"
            lines.append(f"{names.get(text(name), text(name))}: {said}")
        lines.append(text(one, "path"))
        words = f"{text(one, 'path')}, {text(one, 'label')}"
        shown.append(Picture(image_uri(one.get("image")), words, lines))
    if not shown:
        return Section("disagreements", "Where they differ", [Text("The best two are right on the same images.")])
    title = "Images that one of the best two got right and the other did not, the surest mistakes first"
    return Section("disagreements", "Where they differ", [Pictures(title, shown)])


def _classes(table: Sequence[Mapping[str, Any]]) -> Section:
    blocks: list[Block] = []
    for one in table:
        scores = sorted(objects(one, "metrics", "per_class"), key=lambda entry: share(entry, "f1") or 0.0)
        rows = [
            [
                text(entry, "label"),
                *(percent(share(entry, name)) if share(entry, name) is not None else "—" for name in SCORES),
                plain(entry.get("support")),
            ]
            for entry in scores
        ]
        shown, more = worst_rows(rows, MAX_ROWS, "classes")
        columns = ["Class", "Precision", "Recall", "F1", "Images"]
        pairs = [
            f"“{text(pair, 'label')}” taken for “{text(pair, 'predicted')}”: {plain(pair.get('count'))}"
            for pair in objects(one, "metrics", "most_confused")[:5]
        ]
        parts: list[Block] = [Table("Weakest first", columns, shown, frozenset({1, 2, 3, 4}), more)]
        if pairs:
            parts.append(Bullets(pairs, "Most confused"))
        blocks.append(Fold(called(one), [Columns(parts, wide=True)]))
    return Section("classes", "Class by class", blocks)


def _dataset(comparison: Mapping[str, Any]) -> Section:
    dataset = mapping(comparison, "dataset")
    left_out = dataset.get("seen") == "leave-out"
    rows = [
        ("Data set", text(dataset, "id")),
        ("Split", text(dataset, "split") if dataset.get("split") else "all of it"),
        ("Images", plain(dataset.get("images"))),
        ("Classes", listed([text(one) for one in entries(dataset, "classes") if isinstance(one, str)], 20)),
        ("Images a model was tuned on", f"{plain(dataset.get('tuned_on'))}, {'left out' if left_out else 'judged on'}"),
        ("They chose among", "the data set's classes" if dataset.get("among") == "dataset" else "their own classes"),
        ("Images that could not be read", plain(len(entries(dataset, "unreadable")))),
    ]
    return Section("images", "The images", [Facts(rows)])
