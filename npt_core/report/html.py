"""A report as one HTML page. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from npt_core.report.blocks import Section
from npt_core.report.facts import percent, text
from npt_core.report.measured import Measured, Subject
from npt_core.report.page import render_page
from npt_core.report.sections.accuracy import accuracy
from npt_core.report.sections.again import again
from npt_core.report.sections.calibration import calibration
from npt_core.report.sections.classes import classes
from npt_core.report.sections.confusion import confusion
from npt_core.report.sections.dataset import dataset
from npt_core.report.sections.parent import parent
from npt_core.report.sections.training import geometry, training
from npt_core.report.sections.verdict import verdict

SECTIONS: tuple[Callable[[Measured], Section], ...] = (
    verdict,
    accuracy,
    parent,
    classes,
    confusion,
    calibration,
    training,
    geometry,
    dataset,
    again,
)


def render_report(
    report: Mapping[str, Any], subject: Subject | None = None, *, base_url: str = "http://127.0.0.1:8000"
) -> str:
    """Return a self-contained page of a report.

    Args:
        report: As `Report.to_dict` made it, with what was added later; anybody's: what is missing or of another kind is
            said to be not known.
        subject: The model it is of.
        base_url: Of the service that the commands speak to, without a slash at the end.
    """
    subject = subject or Subject()
    found = Measured(report, subject, base_url)
    name = text(subject.name) if subject.name else text(subject.id) if subject.id else "A tuned classifier"
    title = f"{name}, version {subject.version}" if subject.version else name
    accuracy_now = found.tuned.accuracy if found.tuned.known else found.zero_shot.accuracy
    told = f"{percent(accuracy_now)} right" if accuracy_now is not None else "not measured"
    subtitle = (
        f"Report of a classifier tuned with {found.method} on the backbone {text(report, 'backbone', 'name')}: {told}."
    )
    return render_page(title, subtitle, [build(found) for build in SECTIONS])
