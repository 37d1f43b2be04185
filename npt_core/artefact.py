"""What a saved classifier is made of: its files, and what each of them may say. Needs no torch.

The manifest of a stranger is believed only as far as this table goes. A key that is not in it is refused: a newer
version may give it a meaning that changes what the classifier answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from npt_core.data.names import label_fault, text_fault
from npt_core.errors import Fault

MANIFEST_FORMAT = 1
TENSOR_FILE, MANIFEST_FILE, REPORT_FILE = "classifier.safetensors", "manifest.json", "report.json"

MAX_CLASSES = 10_000
MAX_WORDS = 2000
"""Characters of a class name or phrasing; the tokenizer decides first in all but nonsense."""
MAX_PHRASINGS = 64
MAX_SAMPLES = 1_000_000
MAX_DATASETS = 1000
"""Behind one model, its ancestors' among them."""
MAX_DEPTH = 64
MAX_FAULTS = 100

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Between a hundred times surer and a hundred times less sure than the logits are; nothing sensible lies beyond."""

_HASH = re.compile(r"[0-9a-f]{64}")
_METHOD = re.compile(r"[a-z][a-z0-9_]{0,63}")

Check = Callable[[Any], "str | None"]


def _is(kind: type | tuple[type, ...], words: str, *, null: bool = False) -> Check:
    def check(value: Any) -> str | None:
        if (null and value is None) or (isinstance(value, kind) and not isinstance(value, bool)):
            return None
        return f"is {_kind(value)}; it must be {words}"

    return check


def _matches(pattern: re.Pattern[str], words: str, *, null: bool = False) -> Check:
    def check(value: Any) -> str | None:
        if (null and value is None) or (isinstance(value, str) and pattern.fullmatch(value)):
            return None
        return f"is not {words}"

    return check


def _share(value: Any) -> str | None:
    return None if _is_number(value, 0, 1) else "is not a number from 0 to 1"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"is {_kind(value)}; it must be true or false"


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > MAX_WORDS:
        return f"is not text of at most {MAX_WORDS} characters"
    fault = text_fault(value)
    return f"{fault}" if fault else None


def _text_or_null(value: Any) -> str | None:
    return None if value is None else _text(value)


def calibration_faults(value: Any) -> list[Fault]:
    """Return what is wrong with a manifest's `calibration`, which may be null."""
    if value is None:
        return []
    if not isinstance(value, dict) or value.keys() != {"temperature", "count", "source", "reject_below"}:
        return [Fault("calibration", "is neither null nor an object of temperature, count, source and reject_below")]
    faults = []
    temperature, count = value["temperature"], value["count"]
    if not _is_number(temperature, MIN_TEMPERATURE, MAX_TEMPERATURE):
        message = f"is not a number from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
        faults.append(Fault("calibration.temperature", message))
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_SAMPLES:
        faults.append(Fault("calibration.count", f"is not a whole number from 0 to {MAX_SAMPLES}"))
    elif count == 0 and temperature != 1:
        faults.append(Fault("calibration.temperature", "is not 1, although it was fitted on no image"))
    if not isinstance(value["source"], str) or not _METHOD.fullmatch(value["source"].replace("-", "_")):
        faults.append(Fault("calibration.source", "is not the kind of an evaluation"))
    if value["reject_below"] is not None and not _is_number(value["reject_below"], 0, 1):
        faults.append(Fault("calibration.reject_below", "is neither null nor a number from 0 to 1"))
    return faults


def frequencies_fault(value: Any, num_classes: int) -> str | None:
    """Say what is wrong with a manifest's `assumed_frequencies`, or None; they may be null."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != num_classes:
        return f"is neither null nor a list of {num_classes} numbers, one for each class"
    if not all(_is_number(one, 0, 1) and one > 0 for one in value) or abs(math.fsum(value) - 1) > 1e-6:
        return "holds numbers that are no shares: each is more than 0, and together they are 1"
    return None


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


_object = _is(dict, "an object")

_REQUIRED: Mapping[str, Check] = {
    "method": _matches(_METHOD, "the name of a method"),
    "method_config": _object,
    "classes": _is(list, "a list"),
    "backbone": _object,
}
_OPTIONAL: Mapping[str, Check] = {
    "created_at": _text,
    "config": _object,
    "preprocess": _object,
    "dataset_id": _matches(_HASH, "the hash of a data set", null=True),
    "samples": _is(list, "a list"),
    "parent": _text_or_null,
    "seeds": _object,
    "versions": _object,
    "metrics": _object,
    "evaluation": _object,
    "geometry": _object,
    "refitted": _flag,
    "tuned_share": _share,
    "chosen_by": _text_or_null,
    "calibration": _is(dict, "an object or null", null=True),
    "assumed_frequencies": _is(list, "a list or null", null=True),
    "inherited": _object,
}
MANIFEST_KEYS = frozenset({"format", *_REQUIRED, *_OPTIONAL})
"""Everything a manifest may hold. Who writes a new key into manifests adds it here, with its check above."""

_REPORT: Mapping[str, Check] = {
    "evaluation": _object,
    "metrics": _object,
    "geometry": _object,
    "history": _is(list, "a list"),
    "config": _object,
    "dataset": _object,
    "backbone": _object,
    "warnings": _is(list, "a list"),
    "counters": _object,
    "seconds": _object,
    "selection": _is(dict, "an object or null", null=True),
    "examples": _is(dict, "an object or null", null=True),
    "reproduce": _is(dict, "an object or null", null=True),
    "calibration": _is(dict, "an object or null", null=True),
    "parent": _is(dict, "an object or null", null=True),
}


def manifest_faults(manifest: Any) -> list[Fault]:
    """Return everything that is wrong with a manifest that somebody sent; at most 100 faults.

    Args:
        manifest: As JSON was read.
    """
    if not isinstance(manifest, dict):
        return [Fault("", f"is {_kind(manifest)}; it must be an object")]
    if manifest.get("format") != MANIFEST_FORMAT or isinstance(manifest.get("format"), bool):
        return [Fault("format", f"is {_brief(manifest.get('format'))}; this version reads {MANIFEST_FORMAT}")]
    if fault := plain_fault(manifest):
        return [Fault("", fault)]
    faults = [Fault(key, "is missing") for key in _REQUIRED if key not in manifest]
    faults += [
        Fault(_brief(key), "is not known to this version; the file may come from a newer one")
        for key in manifest
        if key not in MANIFEST_KEYS
    ]
    for key, check in {**_REQUIRED, **_OPTIONAL}.items():
        message = check(manifest[key]) if key in manifest else None
        if message:
            faults.append(Fault(key, message))
    wrong = {fault.path for fault in faults}
    looks: dict[str, Callable[[Any], list[Fault]]] = {
        "classes": _class_faults,
        "backbone": _backbone_faults,
        "samples": _sample_faults,
        "inherited": _inherited_faults,
    }
    for key, look in looks.items():
        if key in manifest and key not in wrong:
            faults += look(manifest[key])
    if "calibration" not in wrong:
        faults += calibration_faults(manifest.get("calibration"))
    if not wrong & {"classes", "assumed_frequencies"} and "classes" in manifest:
        fault = frequencies_fault(manifest.get("assumed_frequencies"), len(manifest["classes"]))
        faults += [Fault("assumed_frequencies", fault)] if fault else []
    return faults[:MAX_FAULTS]


def report_faults(report: Any) -> list[Fault]:
    """Return everything that is wrong with a report that somebody sent. It is only shown: more keys are let through."""
    if not isinstance(report, dict):
        return [Fault("", f"is {_kind(report)}; it must be an object")]
    if fault := plain_fault(report):
        return [Fault("", fault)]
    found = ((key, check(report[key])) for key, check in _REPORT.items() if key in report)
    return [Fault(key, message) for key, message in found if message]


def plain_fault(value: Any, depth: int = 0) -> str | None:
    """Return why a value read from JSON cannot be passed on as JSON, or None: too deep, or half a character in it."""
    if depth > MAX_DEPTH:
        return f"is nested more than {MAX_DEPTH} deep"
    if isinstance(value, str):
        return None if _is_unicode(value) else "holds half of a surrogate pair, which is no character"
    if isinstance(value, dict):
        if not all(map(_is_unicode, value)):
            return "holds half of a surrogate pair, which is no character"
        value = list(value.values())
    if isinstance(value, list):
        return next((fault for entry in value if (fault := plain_fault(entry, depth + 1))), None)
    return None


def _class_faults(classes: list[Any]) -> list[Fault]:
    if not 2 <= len(classes) <= MAX_CLASSES:
        return [Fault("classes", f"has {len(classes)} entries; 2 to {MAX_CLASSES} are accepted")]
    faults: list[Fault] = []
    labels: set[str] = set()
    for number, one in enumerate(classes):
        where = f"classes[{number}]"
        if not isinstance(one, dict) or one.keys() != {"label", "name", "phrasings"}:
            faults.append(Fault(where, "is not an object of label, name and phrasings"))
            continue
        label, phrasings = one["label"], one["phrasings"]
        message = label_fault(label) if isinstance(label, str) else "is not text"
        if message or label in labels:
            faults.append(Fault(f"{where}.label", message or "is the label of another class too"))
        elif message := _words(one["name"]):
            faults.append(Fault(f"{where}.name", message))
        elif not isinstance(phrasings, list) or not 1 <= len(phrasings) <= MAX_PHRASINGS:
            faults.append(Fault(f"{where}.phrasings", f"is not a list of 1 to {MAX_PHRASINGS} texts"))
        elif message := next((m for text in phrasings if (m := _words(text))), None):
            faults.append(Fault(f"{where}.phrasings", f"has a text that {message}"))
        labels.add(label if isinstance(label, str) else where)
    return faults


def _words(value: Any) -> str | None:
    return "is empty" if isinstance(value, str) and not value.strip() else _text(value)


def _backbone_faults(backbone: dict[str, Any]) -> list[Fault]:
    faults = []
    if message := _words(backbone.get("name")):
        faults.append(Fault("backbone.name", message))
    fingerprint = backbone.get("fingerprint")
    if not isinstance(fingerprint, str) or not _HASH.fullmatch(fingerprint):
        faults.append(Fault("backbone.fingerprint", "is not 64 hexadecimal digits"))
    return faults


def _sample_faults(samples: list[Any]) -> list[Fault]:
    if len(samples) > MAX_SAMPLES:
        return [Fault("samples", f"has {len(samples)} entries; at most {MAX_SAMPLES} are accepted")]
    for number, one in enumerate(samples):
        good = isinstance(one, dict) and isinstance(one.get("path"), str) and isinstance(one.get("sha256"), str)
        if not good:
            return [Fault(f"samples[{number}]", "is not an object of path and sha256")]
    return []


def _inherited_faults(inherited: dict[str, Any]) -> list[Fault]:
    """What the ancestors were tuned on: ids of data sets, hashes of images."""
    faults = []
    for key, most in (("datasets", MAX_DATASETS), ("samples", MAX_SAMPLES)):
        found = inherited.get(key)
        if not isinstance(found, list) or len(found) > most:
            faults.append(Fault(f"inherited.{key}", f"is not a list of at most {most} entries"))
        elif not all(isinstance(one, str) and _HASH.fullmatch(one) for one in found):
            faults.append(Fault(f"inherited.{key}", "has an entry that is not 64 hexadecimal digits"))
    strange = sorted(inherited.keys() - {"datasets", "samples"})
    return faults + [Fault(f"inherited.{_brief(key)}", "is not known to this version") for key in strange]


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text[:100].encode("unicode_escape").decode("ascii")
