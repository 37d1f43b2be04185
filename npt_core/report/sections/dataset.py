"""What was learned from, and what the audit found in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npt_core.report.blocks import Block, Bullets, Facts, Fold, Notice, Section, Text
from npt_core.report.facts import count, entries, known, mapping, objects, plain, text, things
from npt_core.report.measured import Measured

MAX_FINDINGS = 40
MAX_PATHS = 20


def dataset(found: Measured) -> Section:
    """Say which pictures, how many, and what is wrong with them."""
    told = mapping(found.report, "dataset")
    splits = [f"{text(name)} {plain(images)}" for name, images in list(mapping(told, "splits").items())[:10]]
    blocks: list[Block] = [
        Facts(
            [
                ("Id (hash of the pictures and labels)", text(told, "id")),
                ("Classes", plain(len(entries(told, "classes")) or None)),
                ("Images by split", ", ".join(splits) or plain(None)),
            ]
        )
    ]
    blocks += _audit(found)
    left_out = [f"{text(one, 'path')}: {text(one, 'message', limit=300)}" for one in objects(told, "left_out")[:100]]
    if left_out:
        blocks.append(Fold(f"Images that could not be read ({len(left_out)})", [Bullets(left_out)]))
    return Section("data", "Data set", blocks)


def _audit(found: Measured) -> list[Block]:
    status = text(found.report, "audit", "status")
    findings = found.findings()[:MAX_FINDINGS]
    if not known(found.report, "audit", "status"):
        return [Text("The data set was not audited.")]
    if status != "done":
        note = f"The audit of the pictures was not done ({status}); what is below comes from names and counts alone."
        return [Text(note), *(block for one in findings for block in _finding(one))]
    if not findings:
        return [
            Notice("good", "The audit found nothing.", "No duplicates, doubtful labels, strangers or broken files.")
        ]
    return [Text("What the audit found:"), *(block for one in findings for block in _finding(one))]


def _finding(one: Mapping[str, Any]) -> list[Block]:
    level = "warn" if text(one, "severity") == "warning" else "info"
    title = text(one, "kind").replace("-", " ")
    total = count(one, "count")
    heading = f"{title[:1].upper()}{title[1:]}" + (f" ({plain(total)})." if total is not None else ".")
    blocks: list[Block] = [Notice(level, heading, text(one, "message", limit=800))]
    lines = [line for item in objects(one, "items")[:MAX_PATHS] if (line := _item(item))]
    lines = lines or [text(path) for path in entries(one, "paths")[:MAX_PATHS] if isinstance(path, str)]
    if lines:
        blocks.append(Fold(f"{things(len(lines), 'entry', 'entries')} of it", [Bullets(lines)]))
    return blocks


def _item(item: Mapping[str, Any]) -> str:
    """Write one detail of a finding: whatever it holds, in its own order."""
    parts = []
    for name, value in list(item.items())[:8]:
        if isinstance(value, list | tuple):
            parts.append(", ".join(text(part) for part in value[:6]))
        elif known(value):
            parts.append(text(value) if name == "path" else f"{text(name).replace('_', ' ')} {text(value)}")
    return " · ".join(part for part in parts if part)
