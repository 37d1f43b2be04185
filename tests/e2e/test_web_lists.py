"""The page's lists, aliases, key entry and the picture of several models, in a real browser against a real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import running_browser
from tests.support.service import Service, running_service, wait_for
from tests.support.web import at, heading, id_in_address, pictures_of_digits, send_zip, until, upload_of, zipped

pytestmark = pytest.mark.browser

QUICK = {"method": "linear_probe", "views": 1}
KEY = "a-key-for-the-browser-test-0123456789"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def versions(service: Service) -> list[str]:
    """Two versions of one name, the older first."""
    made = []
    for seed in (0, 1):
        files = {"dataset": ("d.zip", zipped(pictures_of_digits("048", 6)), "application/zip")}
        config = f'{{"epochs": 1, "views": 1, "seed": {seed}}}'
        job = service.client.post("/tune", files=files, data={"name": "listed", "config": config}).json()["id"]
        made.append(str(service.wait_for_status(job, "succeeded")["model_id"]))
    return made


def test_publish_move_and_roll_back(service: Service, browser: Any, versions: list[str]) -> None:
    first, second = versions
    with at(browser, service, f"#/models/{first}") as seen:
        page = seen.page
        page.get_by_label("Publish as").fill("web-champion")
        page.get_by_role("button", name="Publish").click()
        page.locator("main").get_by_text("“web-champion” points here now").wait_for()
        page.goto(f"{service.url}/#/models/{second}")
        until(page, "document.querySelector('h1')?.textContent === 'listed v2'")
        page.get_by_label("Publish as").fill("web-champion")
        page.get_by_role("button", name="Publish").click()
        page.locator("main").get_by_text(f"before, it was {first}").wait_for()
        page.get_by_role("link", name="Models", exact=True).click()
        page.get_by_role("button", name="Roll web-champion back").click()
        wait_for(
            "the way back",
            lambda: [
                one["model"]
                for one in service.client.get("/aliases").json()["items"]
                if one["alias"] == "web-champion" and one["model"] == first
            ],
        )
        page.get_by_role("button", name="Delete the alias web-champion").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Delete the alias web-champion").wait_for(state="detached")
        assert all(one["alias"] != "web-champion" for one in service.client.get("/aliases").json()["items"])


def test_an_alias_with_a_bad_name_is_refused_in_the_server_s_words(
    service: Service, browser: Any, versions: list[str]
) -> None:
    answer = service.client.put("/aliases/Not Good", json={"model": versions[0]})
    with at(browser, service, f"#/models/{versions[0]}") as seen:
        seen.page.get_by_label("Publish as").fill("Not Good")
        seen.page.get_by_role("button", name="Publish").click()
        assert answer.json()["detail"] in seen.page.locator(".notice.bad").inner_text()


def test_models_are_searched_exported_deleted_and_imported(
    service: Service, browser: Any, versions: list[str], tmp_path: Path
) -> None:
    job = service.client.post(
        "/tune",
        files={"dataset": ("d.zip", zipped(pictures_of_digits("26", 6)), "application/zip")},
        data={"name": "parting gift", "config": '{"method": "linear_probe"}'},
    ).json()["id"]
    model = str(service.wait_for_status(job, "succeeded")["model_id"])
    with at(browser, service, "#/models") as seen:
        page = seen.page
        page.get_by_label("Find").fill("parting gift LINEAR")
        # Not those of the table of aliases, which other tests may have left.
        rows = "document.querySelectorAll('section[aria-label=\"All models\"] tbody tr')"
        until(page, f"[...{rows}].filter(o => o.checkVisibility()).length === 1")
        with page.expect_download() as saving:
            page.get_by_role("button", name="Export parting gift v1").click()
        saving.value.save_as(tmp_path / "model.zip")
        assert saving.value.suggested_filename == f"{model}.zip"
        page.get_by_role("button", name="Delete parting gift v1").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Keep it").click()
        assert service.client.get(f"/models/{model}").status_code == 200
        page.get_by_role("button", name="Delete parting gift v1").click()
        dialog.get_by_role("button", name="Delete").click()
        page.locator("main").get_by_text("parting gift v1").wait_for(state="detached")
        assert service.client.get(f"/models/{model}").status_code == 404
        page.set_input_files("[data-pick=model]", str(tmp_path / "model.zip"))
        back = id_in_address(page, "models")
        until(page, "document.querySelector('h1')?.textContent.startsWith('parting gift v')")
        assert service.client.get(f"/models/{back}").json()["lineage"]["imported"]["id"] == model


def test_a_file_that_is_no_model_is_refused(service: Service, browser: Any) -> None:
    with at(browser, service, "#/models") as seen:
        bad = upload_of(zipped({"cat/1.png": b"x"}), "bad.zip")
        seen.page.set_input_files("[data-pick=model]", bad)
        assert "The file holds no model that can be used" in seen.page.locator(".notice.bad").inner_text()


def test_data_sets_are_listed_and_one_in_use_is_not_deleted(
    service: Service, browser: Any, versions: list[str]
) -> None:
    with at(browser, service) as seen:
        page = seen.page
        send_zip(page, zipped(pictures_of_digits("17", 3, start=20)), "spare.zip")
        spare = id_in_address(page, "datasets")
        until(page, "document.querySelector('h1')?.textContent === 'spare'")
        page.get_by_role("link", name="Data sets", exact=True).click()
        page.get_by_label("Find").fill("spare")
        page.get_by_role("button", name="Delete spare").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Delete spare").wait_for(state="detached")
        assert service.client.get(f"/datasets/{spare}").status_code == 404
        used = service.client.get(f"/models/{versions[0]}").json()["dataset_id"]
        page.get_by_label("Find").fill(used)
        page.locator(".listing tbody tr:visible").get_by_role("button").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        refusal = service.client.delete(f"/datasets/{used}").json()
        assert refusal["detail"] in page.locator(".notice.bad").inner_text()


def test_jobs_are_listed_by_state(service: Service, browser: Any, versions: list[str]) -> None:
    with at(browser, service, "#/jobs?status=succeeded") as seen:
        page = seen.page
        until(page, "document.querySelectorAll('.listing tbody tr').length >= 2")
        assert set(page.locator(".state").all_inner_texts()) == {"succeeded"}
        page.get_by_label("Find").fill("no such job at all")
        page.locator("main").get_by_text("0 of ").wait_for()


def test_several_models_on_one_picture(service: Service, browser: Any, versions: list[str]) -> None:
    query = "&".join(f"model={model}" for model in versions)
    with at(browser, service, f"#/try?{query}") as seen:
        page = seen.page
        page.locator(".choices input:checked").nth(1).wait_for()
        picture = next(iter(pictures_of_digits("8", 1, start=9).values()))
        page.set_input_files("[data-pick=picture]", upload_of(picture, "8.png", "image/png"))
        page.locator(".answer").nth(2).wait_for()
        assert sorted(page.locator(".answer h3").all_inner_texts()) == ["Zero-shot", "listed v1", "listed v2"]
        page.get_by_label("listed v1").uncheck()
        until(page, "document.querySelectorAll('.answer').length === 2")
        page.get_by_label("Zero-shot beside it").uncheck()
        until(page, "document.querySelectorAll('.answer').length === 1")


def test_a_picture_is_pasted_and_one_that_is_none_is_refused(
    service: Service, browser: Any, versions: list[str]
) -> None:
    picture = next(iter(pictures_of_digits("4", 1, start=9).values()))
    with at(browser, service, f"#/models/{versions[0]}") as seen:
        page = seen.page
        page.locator("#try").wait_for()
        page.evaluate(
            """bytes => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], 'pasted.png', {type: 'image/png'}));
                document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));
            }""",
            list(picture),
        )
        page.locator(".answer").nth(1).wait_for()
        page.set_input_files("[data-pick=picture]", upload_of(b"no picture", "x.png", "image/png"))
        page.locator("#try .notice.bad").wait_for()
        assert "The image cannot be read" in page.locator("#try .notice.bad").inner_text()


def test_the_server_s_key_is_asked_for_and_kept_for_the_tab(browser: Any, tmp_path: Path) -> None:
    with running_service(tmp_path / "data", NPT_API_KEYS=KEY) as service, at(browser, service, "#/models") as seen:
        page = seen.page
        dialog = page.get_by_role("dialog")
        dialog.wait_for()
        assert "This server needs an API key and none was sent." in dialog.inner_text()
        page.get_by_label("Key", exact=True).fill("wrong")
        page.get_by_role("button", name="Use this key").click()
        page.locator(".notice.bad").wait_for()
        page.get_by_role("button", name="Key: set").click()
        page.get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        page.locator("main").get_by_text("No model yet.").wait_for()
        page.reload()
        page.locator("main").get_by_text("No model yet.").wait_for()
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]
        page.get_by_role("link", name="New").click()
        send_zip(page, zipped(pictures_of_digits("09", 5)))
        page.locator(".class-card img").first.wait_for()
        page.locator("details.advanced > summary").click()
        page.locator("[data-setting=epochs]").fill("2")
        page.get_by_role("button", name="Tune", exact=True).click()
        page.locator("#result").wait_for()
        assert heading(page).inner_text() == "Tuning “pictures”"
        assert KEY not in page.content()
        with page.expect_download() as saving:
            page.get_by_role("button", name="Save the report").click()
        saving.value.save_as(tmp_path / "report.html")
        assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
        assert KEY not in service.log.read_text()
