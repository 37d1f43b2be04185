"""The page of a report: everything is there, for every kind of model, and nothing that does not belong there."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from npt_core import Dataset, tune
from npt_core.report import Subject, render_report
from npt_core.report.page import content_policy, style
from tests.npt_core.report.conftest import tuned
from tests.support.pages import Page
from tests.support.pictures import write_folder

SECTIONS = ["verdict", "accuracy", "classes", "confusion", "confidence", "training", "geometry", "data", "again"]
QUICK: dict[str, Any] = {"epochs": 2, "views": 1, "batch_size": 8, "lr": 0.02}


def test_everything_that_was_asked_for_is_on_it(full: dict[str, Any]) -> None:
    html = render_report(full, Subject("model_1", "colours", 3, {"created_at": "2026-11-25T01:02:03+00:00"}))
    page = Page(html)
    assert [one for one in page.ids if one in SECTIONS] == SECTIONS
    assert page.text("h1", "bdi")[0] == "colours, version 3"
    words = "\n".join(page.text())
    tuned_part, before, both = (full["metrics"][name] for name in ("tuned", "zero_shot", "paired"))
    assert f"{100 * tuned_part['accuracy']:.1f}\xa0%" in words
    assert f"{100 * before['accuracy']:.1f}\xa0%" in words
    assert "McNemar" in words
    assert f"Tuning put {both['only_tuned_right']} image" in words
    pair = tuned_part["most_confused"][0]
    assert f"“{pair['label']}” is taken for “{pair['predicted']}”" in words
    assert "measured on the data set's own test split" in words
    assert "The loss was not finite once." in words
    assert "Recommended: reject_below=0.60." in words
    assert "6.4\xa0%" in words  # ECE before
    assert "2.1\xa0%" in words  # and after
    assert "Look at 1 image that may carry a wrong label: test/red/0.png." in words
    assert "coop (chosen)" in words
    assert full["dataset"]["id"] in words
    titles = page.text("h3", "caption")
    for title in (
        "Accuracy",
        "Image by image",
        "F1 of each class",
        "Images of each class",
        "Precision, recall and F1, the weakest class first",
        "Confusion matrix, tuned",
        "The most confused pairs",
        "Mistakes of the most confused pairs, the surest first",
        "Before scaling: ECE 6.4\xa0%",
        "After scaling: ECE 2.1\xa0%",
        "Reject thresholds",
        "Loss",
        "Equiangularity of the texts",
        "Duality",
        "On this server",
        "In Python",
    ):
        assert title in titles, title
    examples = full["examples"]
    assert len(page.images) == sum(len(part) for part in examples.values())
    assert page.images[0] == examples["wrong"][0]["image"]
    assert page.tags["svg"] >= 14
    assert html.count('class="whisker ') == 3 * 2  # of three reliability diagrams, the two bins that hold images


def test_it_asks_for_nothing_and_forbids_itself_to(full: dict[str, Any]) -> None:
    html = render_report(full)
    inside = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert inside is not None
    assert inside[1] == style()
    digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
    assert content_policy().startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")
    assert f'content="{content_policy().replace(chr(39), "&#39;")}"' in html
    assert "url(" not in html
    assert "@import" not in html
    assert "http" not in re.sub(r"http-equiv|http://127\.0\.0\.1:8000/tune", "", html)
    assert " style=" not in html  # the policy has a hash for the sheet alone


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"method": "zero_shot"}, {"red": 6, "blue": 6}),
        ({"method": "linear_probe"}, {"red": 6, "blue": 6}),
        ({"method": "tip_adapter"}, {"red": 6, "blue": 6}),
        ({"method": "tip_adapter", "method_config": {"finetune": True}, "epochs": 2}, {"red": 6, "blue": 6}),
        ({"method": "vpt", **QUICK}, {"red": 6, "blue": 6}),
        ({"method": "cocoop", **QUICK}, {"red": 5, "blue": 5, "green": 5}),
        ({"method": "auto", "method_config": {"candidates": ["linear_probe"]}}, {"red": 8, "blue": 8}),
        ({"method": "linear_probe", "tuned_share": "auto"}, {"red": 8, "blue": 8}),
        (QUICK, {"red": 3, "blue": 3}),
        (QUICK, {"red": 1, "blue": 4}),
    ],
    ids=str,
)
def test_every_kind_of_model_has_one(
    backbone: Any, tmp_path: Path, settings: dict[str, Any], counts: dict[str, int]
) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path, counts))
    report, manifest = tuned(dataset, backbone, **settings)
    page = Page(render_report(report, Subject("model_1", None, None, manifest)))
    assert set(SECTIONS) <= set(page.ids)
    words = "\n".join(page.text())
    if min(counts.values()) == 1:
        assert "The tuned classifier was not measured." in words
        assert "not enough images to hold out" in words
        assert "Zero-shot, which learns from no image, is right on" in words
    else:
        assert f"{100 * report['metrics']['tuned']['accuracy']:.1f}\xa0%" in words
    if settings.get("method") == "zero_shot":
        assert "This is the zero-shot classifier." in words
        assert "McNemar" not in words
    if "auto" in settings.values():
        assert "By cross-validation on" in words


def test_a_model_that_went_on_from_another_says_what_that_cost(backbone: Any, tmp_path: Path) -> None:
    old = Dataset.from_folder(write_folder(tmp_path / "old", {"red": 12, "blue": 12}))
    new = Dataset.from_folder(write_folder(tmp_path / "new", {"green": 8, "yellow": 8}, first_seed=900))
    parent = tune(old, QUICK, backbone=backbone).classifier
    settings = {**QUICK, "parent": "model_<p>", "max_old_loss": 0.2}
    report = json.loads(json.dumps(tune(new, settings, backbone=backbone, parent=parent, old=[old]).classifier.report))
    page = Page(render_report(report))
    assert "parent" in page.ids
    words = "\n".join(page.text())
    assert "It went on from model_<p>: 2 classes were there before, new ones are green and yellow." in words
    kept = report["parent"]["old_accuracy"]
    assert "Accuracy on the old classes" in page.text("h3")
    assert f"Now: {100 * kept['after']['accuracy']:.1f}\xa0%" in words
    assert report["parent"]["measured"].rstrip(".") in words
    report["parent"]["old_accuracy"] |= {"change": -0.125, "p_value": 0.01}
    assert "The classes it had before lost 12.5 points" in "\n".join(Page(render_report(report)).text())
    report["parent"] |= {"old_accuracy": None, "measured": "not measured: nothing is at hand"}
    assert "What the old classes lost: not measured: nothing is at hand." in Page(render_report(report)).text()


@pytest.mark.parametrize(("gained", "lost", "said"), [(9, 0, "Better"), (0, 9, "Worse"), (3, 2, "No clear difference")])
def test_the_verdict_follows_the_paired_test(full: dict[str, Any], gained: int, lost: int, said: str) -> None:
    report = copy.deepcopy(full)
    report["metrics"]["zero_shot"]["accuracy"] = 0.5
    report["metrics"]["tuned"]["accuracy"] = 0.5 + (gained - lost) / 40
    report["metrics"]["tuned"]["count"] = 40
    p = {9: 0.0039, 0: 0.0039, 3: 1.0}[gained]
    report["metrics"]["paired"] = {"only_tuned_right": gained, "only_zero_shot_right": lost, "p_value": p}
    strong = Page(render_report(report)).text("strong")
    assert [word for word in strong if "zero-shot" in word] == [
        f"{said} {'to' if said.startswith('No') else 'than'} zero-shot."
    ]


def test_a_model_of_a_thousand_classes_has_a_page_of_bounded_size(full: dict[str, Any]) -> None:
    names = [f"a class with quite a long name, number {n}" for n in range(1000)]
    report = copy.deepcopy(full)
    for side in ("zero_shot", "tuned"):
        report["metrics"][side] |= {
            "confusion": None,
            "per_class": [
                {"label": name, "precision": 0.5, "recall": 0.7, "f1": (n % 97) / 97, "support": 10}
                for n, name in enumerate(names)
            ],
            "most_confused": [{"label": names[n], "predicted": names[n + 1], "count": 9} for n in range(10)],
        }
    report["dataset"]["classes"] = [{"label": name, "count": 16} for name in names]
    html = render_report(report)
    page = Page(html)
    assert len(html) < 2_000_000
    drawn = [word for word in page.text("text") if word.startswith("a class")]
    assert len(drawn) < 150  # heat maps and bars show the worst
    assert "Confusion matrix, tuned: the 11 classes in the worst pairs" in page.text("h3")
    assert "All classes in numbers (1,000)" in page.text("summary")
    rows = [word for word in page.text("bdi") if word.startswith("a class")]
    f1 = {name: (n % 97) / 97 for n, name in enumerate(names)}
    listed = rows[:1000]
    assert [f1[name] for name in listed] == sorted(f1[name] for name in listed)


def test_without_calibration_it_says_what_is_known(full: dict[str, Any]) -> None:
    for missing in ({}, {"calibration": None}):
        report = {key: value for key, value in full.items() if key != "calibration"} | missing
        words = "\n".join(Page(render_report(report)).text())
        assert "No temperature was fitted for this model." in words
        assert f"tuned {100 * full['metrics']['tuned']['calibration_error']:.1f}\xa0%" in words


def test_rendering_needs_no_torch() -> None:
    code = "import sys, npt_core.report as r; r.render_report({}); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]


def test_a_threshold_that_the_model_has_is_no_advice(full: dict[str, Any]) -> None:
    def advice(manifest: dict[str, Any]) -> bool:
        return "Predict with reject_below=0.60" in "\n".join(
            Page(render_report(full, Subject(manifest=manifest))).text()
        )

    assert advice({})
    assert not advice({"calibration": {"temperature": 1.0, "reject_below": 0.6}})
