"""The web page from a zip to a prediction, in a real browser against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import png
from tests.support.browser import running_browser
from tests.support.line import running_line
from tests.support.service import Service, wait_for
from tests.support.web import (
    LONG,
    PATIENCE_MS,
    SHORT,
    at,
    heading,
    id_in_address,
    pictures_of_digits,
    points,
    send_zip,
    start_tuning,
    until,
    upload_of,
    zipped,
)

pytestmark = pytest.mark.browser
FOUR_EACH = "[...document.querySelectorAll('.class-card')].every(one => one.querySelectorAll('img').length === 4)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


def test_from_a_zip_to_a_prediction(service: Service, browser: Any) -> None:
    with at(browser, service) as seen:
        page = seen.page
        send_zip(page, zipped(pictures_of_digits()))
        page.locator(".class-card").nth(3).wait_for()
        assert heading(page).inner_text() == "pictures"
        assert page.locator(".class-card").count() == 4
        until(page, "document.querySelectorAll('.class-card img').length === 16")
        until(page, "[...document.querySelectorAll('.class-card img')].every(one => one.naturalWidth > 0)")
        page.get_by_label("Folder 7, called").fill("seven")
        job = start_tuning(page, SHORT)

        page.locator("#result").wait_for()
        assert page.locator(".standing").inner_text() == "Done"
        record = service.job(job)
        assert record["config"]["class_names"] == {"7": "seven"}
        assert record["config"]["epochs"] == 3
        told = page.locator(".numbers b").all_inner_texts()
        measured = [record["metrics"][name]["accuracy"] for name in ("tuned", "zero_shot")]
        assert told == [f"{100 * one:.1f} %" for one in measured]

        model = record["model_id"]
        assert f"model={model}" in page.locator("pre").first.inner_text()
        assert page.get_by_role("link", name="Open the report").get_attribute("href") == f"models/{model}/report"
        picture = next(iter(pictures_of_digits("7", 1, start=10).values()))
        page.set_input_files("[data-pick=picture]", upload_of(picture, "a.png", "image/png"))
        page.locator(".answer").nth(1).wait_for()
        files = {"images": ("a.png", picture, "image/png")}
        said = service.client.post("/predict", files=files, data={"model": model}).json()["predictions"][0]["top"]
        shown = page.locator(".answer").first.locator("li")
        assert [text.split("\n")[0] for text in shown.all_inner_texts()] == [one["label"] for one in said[:5]]
        assert f"{100 * said[0]['probability']:.1f} %" in shown.first.inner_text()
        plain = page.locator(".answer").nth(1)
        assert plain.locator("h3").inner_text() == "Zero-shot"
        assert plain.locator("li").count() == 4

        page.locator("main").get_by_text("Other class names").click()
        page.locator(".trier textarea").fill("seven\nthe letter B")
        page.get_by_role("button", name="Ask again").click()
        until(page, "document.querySelectorAll('.answer')[0].querySelectorAll('li').length === 2")
        assert "seven" in page.locator(".answer").first.inner_text()


def test_the_numbers_of_the_matrix_lead_to_their_pictures(service: Service, browser: Any) -> None:
    config = {
        "epochs": 1,
        "views": 1,
        "shots": 1,
        "val_fraction": 0.8,
        "class_names": {"0": "the letter B", "1": "four"},
    }
    job = service.tune(zipped(pictures_of_digits("0137", 10)), config).json()["id"]
    model = service.wait_for_status(job, "succeeded")["model_id"]
    report = service.client.get(f"/models/{model}/report").json()
    matrix = report["metrics"]["tuned"]["confusion"]
    labels = [one["label"] for one in report["dataset"]["classes"]]
    wrong = [(i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    assert wrong, "names this misleading make mistakes"
    i, j = wrong[0]
    answers = report["evaluation"]["answers"]
    behind = {
        path
        for path, label, said in zip(report["evaluation"]["samples"], answers["label"], answers["tuned"], strict=True)
        if (label, said) == (i, j)
    }
    assert len(behind) == matrix[i][j]
    with at(browser, service, f"#/models/{model}") as seen:
        page = seen.page
        page.get_by_role("button", name=f"{labels[i]} taken for {labels[j]}: {matrix[i][j]}").click()
        page.locator(".behind img").nth(len(behind) - 1).wait_for()
        assert {one.get_attribute("alt") for one in page.locator(".behind img").all()} == behind
        page.get_by_label("Zero-shot", exact=True).check()
        page.locator("main").get_by_text("Choose a number to see its pictures.").wait_for()


def test_folders_are_zipped_in_the_browser(service: Service, browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "my digits"
    for name, data in pictures_of_digits("25", 4).items():
        name = name.replace("2/", "zwei ü/", 1)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "zwei ü" / "notes.docx").write_text("not to be sent")
    (folder / ".DS_Store").write_text("nor this")
    with at(browser, service) as seen:
        page = seen.page
        page.set_input_files("[data-pick=folder]", str(folder))
        dataset = service.client.get(f"/datasets/{id_in_address(page, 'datasets')}").json()
    assert dataset["filename"] == "my digits.zip"
    assert dataset["classes"] == [{"label": "5", "images": 4}, {"label": "zwei ü", "images": 4}]
    assert dataset["skipped"] == {}


def test_one_folder_waits_for_the_next(service: Service, browser: Any, tmp_path: Path) -> None:
    for name, data in pictures_of_digits("69", 3).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with at(browser, service) as seen:
        page = seen.page
        page.set_input_files("[data-pick=folder]", str(tmp_path / "6"))
        page.locator("main").get_by_text("One class so far.").wait_for()
        page.set_input_files("[data-pick=folder]", str(tmp_path / "9"))
        dataset = service.client.get(f"/datasets/{id_in_address(page, 'datasets')}").json()
    assert [one["label"] for one in dataset["classes"]] == ["6", "9"]


def test_the_sample_is_one_click_away(service: Service, browser: Any) -> None:
    with at(browser, service) as seen:
        seen.page.get_by_role("button", name="Use the sample").click()
        seen.page.locator(".class-card").nth(9).wait_for()
        dataset = service.client.get(f"/datasets/{id_in_address(seen.page, 'datasets')}").json()
        # The same pictures are one data set, called as whoever sent them first called them.
        assert f"{heading(seen.page).inner_text()}.zip" == dataset["filename"]
        assert (dataset["images"], len(dataset["classes"])) == (160, 10)


def test_cancel(service: Service, browser: Any) -> None:
    with at(browser, service) as seen:
        page = seen.page
        send_zip(page, zipped(pictures_of_digits("04", 5)))
        job = start_tuning(page, LONG)
        page.locator(".chart .uplot").first.wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.locator("main").get_by_text("Cancelled", exact=True).wait_for()
        assert page.get_by_role("button", name="Cancel").is_hidden()
        assert service.job(job)["status"] == "cancelled"
        page.get_by_role("link", name="Back to the data set").wait_for()


def test_a_reload_and_a_broken_line_in_mid_job_take_the_view_up(service: Service, browser: Any) -> None:
    with running_line(service.url) as line, at(browser, service, base=line.url) as seen:
        page = seen.page
        send_zip(page, zipped(pictures_of_digits("05", 5)))
        job = start_tuning(page, LONG)
        wait_for("a curve", lambda: points(page) >= 5)
        page.reload()
        page.locator(".chart .uplot").first.wait_for()
        assert points(page) >= 5, "the curve begins where the job began"
        line.cut()
        page.locator("main").get_by_text("The connection is lost.").wait_for()
        before = points(page)
        line.mend()
        page.locator("main").get_by_text("The connection is lost.").wait_for(state="detached")
        wait_for("the curve to go on", lambda: points(page) > before)
        page.get_by_role("button", name="Cancel").click()
        service.wait_for_status(job, "cancelled")
        page.locator("main").get_by_text("Cancelled", exact=True).wait_for()


def test_a_bad_zip_is_refused_in_the_server_s_words(service: Service, browser: Any) -> None:
    for content in (b"this is no zip at all", zipped({"cat/1.png": b"this is no picture", "notes.txt": b"hello"})):
        answer = service.client.post("/datasets", content=content, headers={"Content-Type": "application/zip"})
        assert answer.status_code == 422
        problem = answer.json()
        with at(browser, service) as seen:
            page = seen.page
            send_zip(page, content)
            notice = page.locator(".notice.bad")
            notice.wait_for()
            assert problem["title"] in notice.inner_text()
            assert problem["detail"] in notice.inner_text()
            for fault in problem.get("errors", []):
                assert fault["message"] in notice.inner_text()
            assert page.get_by_role("button", name="Choose a zip").is_enabled()


def test_markup_in_names_stays_text(service: Service, browser: Any) -> None:
    evil = '<img src=x onerror="window.ran=1"><b>cat'
    entries = {name.replace("1/", f"{evil}/", 1): data for name, data in pictures_of_digits("12", 6).items()}
    with at(browser, service) as seen:
        page = seen.page
        send_zip(page, zipped(entries), "<script>window.ran=1</script>.zip")
        page.locator(".class-card").nth(1).wait_for()
        assert evil in page.locator(".class-card strong").all_inner_texts()
        page.locator("details.advanced > summary").click()
        page.locator("[data-setting=epochs]").fill("1")
        page.get_by_label("Call the model").fill("<i>evil</i>")
        page.get_by_role("button", name="Tune", exact=True).click()
        page.locator("#result").wait_for()
        assert "<i>evil</i>" in heading(page).inner_text()
        picture = next(iter(pictures_of_digits("1", 1, start=8).values()))
        page.set_input_files("[data-pick=picture]", upload_of(picture, "<b>.png", "image/png"))
        page.locator(".answer").nth(1).wait_for()
        assert evil in page.locator(".answer-label").all_inner_texts()
        assert evil in page.locator(".confusion th").all_inner_texts()
        assert page.locator("main b:not(.numbers b), main i, main script, main img[src=x]").count() == 0
        assert page.evaluate("window.ran") is None


def test_a_setting_the_server_refuses_is_marked(service: Service, browser: Any) -> None:
    with at(browser, service) as seen:
        page = seen.page
        send_zip(page, zipped(pictures_of_digits("03", 4)))
        page.locator("details.advanced > summary").click()
        page.locator("[data-setting=lr]").fill("-1")
        page.locator("[data-setting=method]").select_option("maple")
        page.locator("[data-setting=prompt_depth]").wait_for()  # the fields are those of the method
        page.get_by_role("button", name="Tune", exact=True).click()
        page.locator("[data-setting=lr][aria-invalid=true]").wait_for()
        config = json.dumps({"lr": -1, "method": "maple"})
        dataset = id_in_address(page, "datasets")
        problem = service.client.post("/tune", data={"dataset_id": dataset, "config": config}).json()
        assert problem["errors"][0]["message"] in page.locator(".notice.bad").inner_text()


def test_many_classes_stay_readable(service: Service, browser: Any) -> None:
    """Seventy classes: the cards come in parts, matrix and geometry show some of them and say so."""
    entries = {f"{n:02}/{i}.png": png(seed=100 * n + i) for n in range(70) for i in range(4)}
    with at(browser, service) as seen:
        page = seen.page
        send_zip(page, zipped(entries), "many.zip")
        until(page, "document.querySelectorAll('.class-card').length === 60")
        until(
            page, "[...document.querySelectorAll('.class-card')].every(one => one.querySelectorAll('img').length === 4)"
        )
        page.get_by_role("button", name="Show 10 more of 70 classes").click()
        until(page, "document.querySelectorAll('.class-card').length === 70")
        until(
            page, "[...document.querySelectorAll('.class-card')].every(one => one.querySelectorAll('img').length === 4)"
        )
        last = page.locator(".class-card").last
        assert {one.get_attribute("alt") for one in last.locator("img").all()} == {f"69/{i}.png" for i in range(4)}
        start_tuning(page, {"epochs": 1, "views": 1})
        page.locator("#confusion").wait_for()
        assert page.locator(".confusion tbody tr").count() == 24
        assert page.locator(".plane .dot").count() == 24
        page.locator("main").get_by_text("24 of 70 classes are shown, spread evenly: 00, 02, 05,").wait_for()


def test_what_is_not_there_is_said(service: Service, browser: Any) -> None:
    with at(browser, service, "#/models/model_00000000000000000000000000") as seen:
        seen.page.locator(".notice.bad").wait_for(timeout=PATIENCE_MS)
        assert heading(seen.page).inner_text() == "This cannot be shown"
        seen.page.goto(f"{service.url}/#/nowhere/%")
        seen.page.locator("main").get_by_text("There is no such page").wait_for()
