"""The web page in a real browser: opened at a real service, with what it did kept for the test to look at."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tests.support.browser import Visit, visit
from tests.support.service import ROOT, Service, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PATIENCE_MS = 120_000
SHORT: Mapping[str, Any] = {"epochs": 3, "views": 1}
LONG: Mapping[str, Any] = {"epochs": 10_000, "views": 1}
ID = re.compile(r"#/(?:jobs|models|datasets)/([\w-]+)")


def pictures_of_digits(labels: str = "0137", per_class: int = 6, start: int = 0) -> dict[str, bytes]:
    """Pictures of the example: `label/file` -> content."""
    with zipfile.ZipFile(ROOT / "examples" / "digits_holdout.zip") as archive:
        names = {label: sorted(one for one in archive.namelist() if one.startswith(f"{label}/")) for label in labels}
        return {one: archive.read(one) for label in labels for one in names[label][start : start + per_class]}


def zipped(entries: Mapping[str, bytes]) -> bytes:
    """A zip in memory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def upload_of(content: bytes, name: str = "pictures.zip", kind: str = "application/zip") -> Any:
    """A file as Playwright hands it to an input."""
    return {"name": name, "mimeType": kind, "buffer": content}


@contextlib.contextmanager
def at(browser: Browser, service: Service, where: str = "", *, base: str | None = None, **how: Any) -> Iterator[Visit]:
    """Open the page; at the end it must have asked no other server, and complained about nothing."""
    base = base or service.url  # another one where something lies between
    with visit(browser, f"{base}/{where}", **how) as seen:
        seen.page.set_default_timeout(PATIENCE_MS)
        yield seen
        strange = [url for url in seen.requests if not url.startswith((base, f"blob:{base}"))]
        assert strange == [], "the page asked another server"
        # Chromium itself writes a line for every refusal and every broken line; the page shows them.
        said = [line for line in seen.console if not line.startswith("Failed to load resource")]
        assert said == [], "the page's console"


def id_in_address(page: Page, kind: str) -> str:
    """The id of what is shown, once it is of this kind."""
    page.wait_for_url(f"**/#/{kind}/*")
    match = ID.search(page.url)
    assert match is not None, page.url
    return match[1]


def send_zip(page: Page, content: bytes, name: str = "pictures.zip") -> None:
    """As somebody who picks a file."""
    page.set_input_files("[data-pick=zip]", upload_of(content, name))


def start_tuning(page: Page, settings: Mapping[str, Any]) -> str:
    """Set things under Advanced and press the button; the id of the job."""
    page.locator("details.advanced > summary").click()
    for name, value in settings.items():
        page.locator(f"[data-setting={name}]").fill(str(value))
    page.get_by_role("button", name="Tune", exact=True).click()
    return id_in_address(page, "jobs")


def points(page: Page) -> int:
    """How many points the loss curve has; 0 where there is none yet."""
    chart = page.locator(".chart .uplot").first
    label = chart.get_attribute("aria-label") if chart.count() else None
    match = re.search(r"(\d+) points", label or "")
    return int(match[1]) if match else 0


def until(page: Page, expression: str) -> None:
    """Wait until an expression is true in the page; asked from outside, since its policy forbids `eval`."""
    wait_for(expression, lambda: page.evaluate(expression))


def heading(page: Page) -> Locator:
    """The page's title."""
    return page.locator("h1")
