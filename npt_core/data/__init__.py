"""Data sets: safe zips, layouts, pictures, samplers, audit. Needs no torch."""

from __future__ import annotations

from npt_core.data.archive import DamagedEntryError, Entry, Limits, SafeArchive
from npt_core.data.audit import audit_structure
from npt_core.data.dataset import Dataset, Sample
from npt_core.data.edit import Additions, Change, Edit, Edited, EditError, edit_dataset
from npt_core.data.findings import Finding
from npt_core.data.images import ACCEPTED_FORMATS, DECODE_POLICY, ImageHeader, decode_image, read_header
from npt_core.data.labels import ClassInfo, prompt_name
from npt_core.data.layout import Layout, SampleRef, read_layout
from npt_core.data.sampling import base_to_novel, few_shot, imbalanced_counts, stratified_folds, stratified_split

__all__ = [
    "ACCEPTED_FORMATS",
    "DECODE_POLICY",
    "Additions",
    "Change",
    "ClassInfo",
    "DamagedEntryError",
    "Dataset",
    "Edit",
    "EditError",
    "Edited",
    "Entry",
    "Finding",
    "ImageHeader",
    "Layout",
    "Limits",
    "Sample",
    "SampleRef",
    "SafeArchive",
    "audit_structure",
    "base_to_novel",
    "decode_image",
    "edit_dataset",
    "few_shot",
    "imbalanced_counts",
    "prompt_name",
    "read_header",
    "read_layout",
    "stratified_folds",
    "stratified_split",
]
