"""The stored form of a data set: everything but the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from npt_core.data.faults import FaultLog
from npt_core.data.ingest import Sample
from npt_core.data.labels import ClassInfo
from npt_core.errors import DatasetError, Fault

VERSION = 2
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Parts:
    """What a manifest holds, as objects again."""

    samples: tuple[Sample, ...]
    prompts: dict[str, ClassInfo]
    kind: str
    skipped: dict[str, int]
    notes: tuple[str, ...]
    faults: FaultLog


def build(
    dataset_id: str,
    samples: Sequence[Sample],
    prompts: Mapping[str, ClassInfo],
    kind: str,
    skipped: Mapping[str, int],
    notes: Sequence[str],
    faults: FaultLog,
) -> dict[str, Any]:
    """Make the manifest. Samples are rows of numbers where they can be: sixty thousand of them fit in 10 MB."""
    numbers = {label: i for i, label in enumerate(prompts)}
    return {
        "version": VERSION,
        "id": dataset_id,
        "layout": kind,
        "classes": [
            {"label": info.label, "name": info.name, "prompts": list(info.phrasings)} for info in prompts.values()
        ],
        "splits": list(_SPLITS),
        "columns": ["path", "class", "split", "sha256", "size", "archive", "entry"],
        "samples": [
            [s.path, numbers[s.label], _SPLITS.index(s.split), s.sha256, s.size, s.archive, s.entry] for s in samples
        ],
        "skipped": dict(skipped),
        "notes": list(notes),
        "left_out": {"total": faults.total, "faults": [[fault.path, fault.message] for fault in faults]},
    }


def parse(manifest: Mapping[str, Any]) -> Parts:
    """Read a manifest.

    Raises:
        DatasetError: Another version, or a field that is missing or of the wrong kind.
    """
    version = manifest.get("version")
    if version != VERSION:
        raise DatasetError(
            f"The data set's manifest has version {version!r}; this release reads {VERSION}. Upload the zip again."
        )
    try:
        labels = [str(item["label"]) for item in manifest["classes"]]
        splits = [str(split) for split in manifest["splits"]]
        faults = FaultLog()
        faults.extend(Fault(str(path), str(message)) for path, message in manifest["left_out"]["faults"])
        faults.total = int(manifest["left_out"]["total"])
        return Parts(
            samples=tuple(
                Sample(str(path), labels[number], splits[split], str(sha256), int(size), int(archive), str(entry))
                for path, number, split, sha256, size, archive, entry in manifest["samples"]
            ),
            prompts={
                item["label"]: ClassInfo(str(item["label"]), str(item["name"]), tuple(map(str, item["prompts"])))
                for item in manifest["classes"]
            },
            kind=str(manifest["layout"]),
            skipped={str(kind): int(count) for kind, count in manifest["skipped"].items()},
            notes=tuple(map(str, manifest["notes"])),
            faults=faults,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DatasetError(f"The data set's manifest is damaged: {error!r}. Upload the zip again.") from error
