"""Data sets: safe zips, layouts, pictures, samplers, audit. Needs no torch.

Names are looked up when first used: a command that judges a name or an archive's directory needs no picture reader.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "ACCEPTED_FORMATS": "images",
    "DECODE_POLICY": "images",
    "Additions": "edit",
    "Change": "edit",
    "ClassInfo": "labels",
    "DamagedEntryError": "archive",
    "Dataset": "dataset",
    "Edit": "edit",
    "EditError": "edit",
    "Edited": "edit",
    "Entry": "archive",
    "Finding": "findings",
    "ImageHeader": "images",
    "Layout": "layout",
    "Limits": "archive",
    "Sample": "dataset",
    "SampleRef": "layout",
    "SafeArchive": "archive",
    "audit_structure": "audit",
    "base_to_novel": "sampling",
    "decode_image": "images",
    "edit_dataset": "edit",
    "few_shot": "sampling",
    "imbalanced_counts": "sampling",
    "prompt_name": "labels",
    "read_header": "images",
    "read_layout": "layout",
    "stratified_folds": "sampling",
    "stratified_split": "sampling",
}

if TYPE_CHECKING:
    from npt_core.data.archive import DamagedEntryError as DamagedEntryError
    from npt_core.data.archive import Entry as Entry
    from npt_core.data.archive import Limits as Limits
    from npt_core.data.archive import SafeArchive as SafeArchive
    from npt_core.data.audit import audit_structure as audit_structure
    from npt_core.data.dataset import Dataset as Dataset
    from npt_core.data.dataset import Sample as Sample
    from npt_core.data.edit import Additions as Additions
    from npt_core.data.edit import Change as Change
    from npt_core.data.edit import Edit as Edit
    from npt_core.data.edit import Edited as Edited
    from npt_core.data.edit import EditError as EditError
    from npt_core.data.edit import edit_dataset as edit_dataset
    from npt_core.data.findings import Finding as Finding
    from npt_core.data.images import ACCEPTED_FORMATS as ACCEPTED_FORMATS
    from npt_core.data.images import DECODE_POLICY as DECODE_POLICY
    from npt_core.data.images import ImageHeader as ImageHeader
    from npt_core.data.images import decode_image as decode_image
    from npt_core.data.images import read_header as read_header
    from npt_core.data.labels import ClassInfo as ClassInfo
    from npt_core.data.labels import prompt_name as prompt_name
    from npt_core.data.layout import Layout as Layout
    from npt_core.data.layout import SampleRef as SampleRef
    from npt_core.data.layout import read_layout as read_layout
    from npt_core.data.sampling import base_to_novel as base_to_novel
    from npt_core.data.sampling import few_shot as few_shot
    from npt_core.data.sampling import imbalanced_counts as imbalanced_counts
    from npt_core.data.sampling import stratified_folds as stratified_folds
    from npt_core.data.sampling import stratified_split as stratified_split

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
