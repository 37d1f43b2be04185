"""From sections to one HTML file that asks for nothing: no script, no link, style and pictures inside.

Everything passes an escaping template. The page forbids itself, by its own policy and by the header that goes with it,
to load or run anything, whatever a stranger's report holds.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from npt_core.report.blocks import Section


@cache
def style() -> str:
    """Return the style sheet."""
    return (resources.files("npt_core.report") / "web" / "style.css").read_text(encoding="utf-8")


@cache
def content_policy() -> str:
    """Return the Content-Security-Policy of every page: its own style by hash, pictures inside it, nothing else."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("npt_core.report", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return a whole page.

    Args:
        title: Its heading and its name in the browser.
        subtitle: Below the heading.
        sections: In their order; empty ones are left out.
    """
    return _template().render(
        title=title,
        subtitle=subtitle,
        sections=[one for one in sections if one.blocks],
        style=style(),
        policy=content_policy(),
    )
