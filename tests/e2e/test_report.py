"""The report of a real tuning: its commands run as they stand, its page looked at in a real browser."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.support.browser import running_browser, visit
from tests.support.pages import Page
from tests.support.service import ROOT, Service

CONFIG = {"epochs": 4, "views": 1, "shots": 4, "seed": 3, "class_names": {"7": "number 'seven'; not @1"}}

CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = colour => {
    const [r, g, b] = rgb(colour).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return ['h1', 'section p', '.quiet', 'nav a', '.notice strong', 'figcaption', 'dt', 'thead th', 'summary', 'pre',
          'svg text.tick', 'svg text.name'].map(name => {
    const element = document.querySelector(name);
    const style = getComputedStyle(element);
    const [one, two] = [light(element.closest('svg') ? style.fill : style.color), light(ground(element))];
    return [name, (Math.max(one, two) + .05) / (Math.min(one, two) + .05)];
  });
}"""


@pytest.fixture(scope="module")
def pictures(holdout: Path) -> bytes:
    """Twelve of each digit."""
    out = io.BytesIO()
    with zipfile.ZipFile(holdout) as archive, zipfile.ZipFile(out, "w") as smaller:
        for digit in "0123456789":
            for name in sorted(name for name in archive.namelist() if name.startswith(f"{digit}/"))[:12]:
                smaller.writestr(name, archive.read(name))
    return out.getvalue()


@pytest.fixture(scope="module")
def model(service: Service, pictures: bytes) -> str:
    """Few shots and a misleading name: it makes mistakes."""
    job = service.tune(pictures, CONFIG).json()
    return str(service.wait_for_status(job["id"], "succeeded")["model_id"])


@pytest.fixture(scope="module")
def report(service: Service, model: str) -> dict[str, Any]:
    body: dict[str, Any] = service.client.get(f"/models/{model}/report").json()
    return body


def answers(service: Service, pictures: bytes, *models: str) -> list[Any]:
    """What each model says of some pictures, which are encoded once for all of them."""
    with zipfile.ZipFile(io.BytesIO(pictures)) as archive:
        files = [("images", (name, archive.read(name), "image/png")) for name in archive.namelist()[::7]]
    answer = service.client.post("/predict", files=files, data={"model": list(models), "top_k": "10"})
    assert answer.status_code == 200, answer.text
    return [[one["top"] for one in result["predictions"]] for result in answer.json()["results"]]


def test_it_holds_pictures_of_its_mistakes(report: dict[str, Any]) -> None:
    wrong = report["examples"]["wrong"]
    assert {(one["label"], one["predicted"]) for one in wrong} == {
        (one["label"], one["predicted"]) for one in report["metrics"]["tuned"]["most_confused"]
    }
    assert all(one["path"].startswith(f"{one['label']}/") for one in wrong)
    assert all(one["image"].startswith("data:image/webp;base64,") for one in wrong)
    assert report["audit"]["status"] == "done"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")
def test_the_curl_command_gives_the_same_model(
    service: Service, model: str, report: dict[str, Any], pictures: bytes
) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{report['reproduce']['commands']['curl']} --silent --fail"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    job = service.client.get("/jobs", params={"limit": 1}).json()["items"][0]
    assert job["id"] in done.stdout
    again = service.wait_for_status(job["id"], "succeeded")["model_id"]
    assert again != model
    first, second = answers(service, pictures, model, again)
    assert first == second
    other = service.client.get(f"/models/{again}/report").json()
    for part in ("metrics", "examples", "reproduce"):
        assert other[part] == report[part], part


def test_the_python_lines_give_the_same_model(
    service: Service, model: str, report: dict[str, Any], pictures: bytes, tmp_path: Path
) -> None:
    (tmp_path / "pictures.zip").write_bytes(pictures)
    code = "import torch; torch.set_num_threads(1)\n" + report["reproduce"]["commands"]["python"]
    (tmp_path / "again.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "again.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    exported = zipfile.ZipFile(io.BytesIO(service.client.get(f"/models/{model}/export").content))
    mine = safetensors.torch.load((tmp_path / "again" / "classifier.safetensors").read_bytes())
    theirs = safetensors.torch.load(exported.read("classifier.safetensors"))
    assert mine.keys() == theirs.keys()
    for name in mine:  # the last bits of a feature depend on who was encoded beside it, here or in an earlier job
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_the_page_is_made_of_nothing_but_what_it_may_be(service: Service, model: str, report: dict[str, Any]) -> None:
    answer = service.client.get(f"/models/{model}/report", headers={"Accept": "text/html"})
    page = Page(answer.text)
    assert f"{100 * report['metrics']['tuned']['accuracy']:.1f}\xa0%" in page.text()
    assert page.text("pre")[0] == report["reproduce"]["commands"]["curl"]
    assert len(answer.content) < 2_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 400])
def test_a_browser_shows_it_and_asks_nobody_for_anything(
    service: Service, model: str, browser: Any, width: int, dark: bool
) -> None:
    url = f"{service.url}/models/{model}/report"
    with visit(browser, url, width=width, dark=dark) as seen:
        page = seen.page
        assert page.evaluate("document.contentType") == "text/html"  # by its Accept header alone
        assert seen.requests == [url]
        assert seen.console == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert page.evaluate("document.images.length") > 5
        boxes = page.evaluate("[...document.querySelectorAll('section, figure svg')].map(o => o.checkVisibility())")
        assert len(boxes) > 20
        low = [(name, ratio) for name, ratio in page.evaluate(CONTRAST) if ratio < 4.5]
        assert low == []  # WCAG AA
        bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(bright) < 200) == dark


@pytest.mark.browser
def test_it_can_be_used_with_the_keyboard_and_printed(service: Service, model: str, browser: Any) -> None:
    with visit(browser, f"{service.url}/models/{model}/report") as seen:
        page = seen.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the report"
        page.focus("#confusion summary")
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector('#confusion details').open")
        names = page.evaluate("[...document.querySelectorAll('[tabindex]')].map(o => o.ariaLabel || o.tagName)")
        assert names
        assert "DIV" not in names
        assert page.pdf().startswith(b"%PDF")
        assert seen.console == []


@pytest.mark.browser
def test_a_saved_copy_is_as_closed_as_the_page(service: Service, model: str, browser: Any, tmp_path: Path) -> None:
    html = service.client.get(f"/models/{model}/report", params={"format": "html"}).text
    bad = html.replace("</main>", "<img src='http://127.0.0.1:9/x.png'><script>document.title = 'run'</script></main>")
    (tmp_path / "good.html").write_text(html)
    (tmp_path / "bad.html").write_text(bad)
    with visit(browser, (tmp_path / "good.html").as_uri()) as seen:
        assert seen.console == []
        assert len(seen.requests) == 1
    with visit(browser, (tmp_path / "bad.html").as_uri()) as seen:  # somebody put something into it
        assert seen.page.title() != "run"
        assert len(seen.console) == 2
