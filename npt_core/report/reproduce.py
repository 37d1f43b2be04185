"""Commands that make a tuned classifier again, over HTTP and in Python.

They are made here of the report's data, never taken from it: nothing a stranger's report says reaches a shell unquoted.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from npt_core.report.facts import at, entries, finite, mapping

_HASH = re.compile(r"[0-9a-f]{64}")
MAX_OLD = 100
_NAME = re.compile(r"[A-Za-z0-9._:/@+-]{1,200}")
MAX_CONFIG_CHARS = 100_000
"""A longer config than any class list needs is not written into a command."""


def commands(report: Mapping[str, Any], base_url: str) -> dict[str, str] | None:
    """Return `curl` for a running service and `python` for the library.

    Args:
        report: As its JSON has it; it may be anybody's.
        base_url: Of the service that is asked, without a slash at the end.

    Returns:
        None where the report does not say enough.
    """
    told = mapping(report, "reproduce")
    config, dataset = finite(dict(mapping(told, "config"))), told.get("dataset_id")
    if not config or not isinstance(dataset, str) or not _HASH.fullmatch(dataset):
        return None
    text = json.dumps(config, separators=(",", ":"), allow_nan=False)
    if len(text) > MAX_CONFIG_CHARS:
        return None
    # --form-string: curl gives no meaning to @, < or ; in it, which a class name may have
    curl = (
        f"curl -F dataset_id={dataset} \\\n"
        f"     --form-string {shlex.quote(f'config={text}')} \\\n"
        f"     {shlex.quote(f'{base_url}/tune')}"
    )
    fingerprint = at(report, "backbone", "fingerprint")
    old = [one for one in entries(told, "old_dataset_ids") if isinstance(one, str) and _HASH.fullmatch(one)]
    return {"curl": curl, "python": _python(config, dataset, fingerprint, old[:MAX_OLD])}


def _python(config: Mapping[str, Any], dataset: str, fingerprint: Any, old: Sequence[str]) -> str:
    backbone, precision = config.get("backbone"), config.get("precision")
    name = backbone if isinstance(backbone, str) and _NAME.fullmatch(backbone) else "BACKBONE"
    towers = f"{name!r}, precision={precision!r}" if precision in ("fp32", "bf16", "fp16") else repr(name)
    parent = config.get("parent")
    known = []
    if isinstance(fingerprint, str) and _HASH.fullmatch(fingerprint):
        known.append(f'assert backbone.fingerprint == "{fingerprint}"  # else these are other weights')
    lines = [
        "import npt_core",
        "",
        "config = {",
        *(f"    {key!r}: {value!r}," for key, value in config.items()),
        "}",
        f"backbone = npt_core.load_backbone({towers})",
        *known,
        'dataset = npt_core.Dataset.from_archive("pictures.zip")',
        f'assert dataset.id == "{dataset}"  # else these are other pictures or labels',
    ]
    more = ""
    if isinstance(parent, str):
        lines.append('parent = npt_core.Classifier.load("PARENT_FOLDER", backbone)')
        more = ", parent=parent"
    if more and old:
        archives = ", ".join(f'"old-{place}.zip"' for place in range(1, len(old) + 1))
        lines += [
            f"old = [npt_core.Dataset.from_archive(path) for path in [{archives}]]",
            f"assert [one.id for one in old] == {list(old)!r}",
        ]
        more += ", old=old"
    lines += [
        f"result = npt_core.tune(dataset, config, backbone=backbone{more})",
        'result.classifier.save("again")',
    ]
    return "\n".join(lines)
