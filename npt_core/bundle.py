"""A classifier as one file for another machine: a zip of safetensors and JSON. No pickle, no code. Needs no torch.

    manifest.json             what it is: method, config, classes, backbone and its fingerprint
    classifier.safetensors    what was learned
    report.json               how well it does, where there is a report
    export.json               where it comes from, and size and SHA-256 of the three above

Written in one pass, so that it can be sent while it is made, and the same model always gives the same bytes. Read as a
stranger's file: judged as a whole, every member expected by name, every size known before a byte is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npt_core.artefact import (
    MANIFEST_FILE,
    REPORT_FILE,
    TENSOR_FILE,
    manifest_faults,
    plain_fault,
    report_faults,
)
from npt_core.data.archive import Limits, SafeArchive
from npt_core.data.names import shown, text_fault
from npt_core.errors import (
    ArtefactError,
    BundleError,
    ConfigError,
    Fault,
    PromptError,
    UnsupportedBackboneError,
)
from npt_core.plainjson import read_plain
from npt_core.tensorfile import check_tensors

if TYPE_CHECKING:
    from npt_core.classifier import Classifier
    from npt_core.clip.backbone import Backbone

BUNDLE_FORMAT = 1
ORIGIN_FILE = "export.json"
CONTENT_FILES = (TENSOR_FILE, MANIFEST_FILE, REPORT_FILE)
"""The files that make a classifier; what else may lie in its folder can be made again."""

MIB = 1024**2
MAX_JSON_BYTES = {ORIGIN_FILE: MIB, MANIFEST_FILE: 64 * MIB, REPORT_FILE: 64 * MIB}
MAX_TENSOR_BYTES = 256 * MIB
_DIRECTORY_BYTES = 64 * 1024
_CHUNK = MIB
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment a zip knows: no clock in the bytes
_REGULAR_FILE = 0o100644 << 16


@dataclass(frozen=True)
class Origin:
    """Where a classifier comes from, in the words of whoever exported it.

    Attributes:
        id: Its id there.
        name: What it was called, if anything.
        version: Its number within that name.
        created_at: When it was made, RFC 3339.
    """

    id: str
    name: str | None = None
    version: int | None = None
    created_at: str | None = None


@dataclass(frozen=True)
class Bundle:
    """What `unpack` found.

    Attributes:
        origin: Where it comes from.
        manifest: Checked.
        content: See `content_of`.
    """

    origin: Origin
    manifest: dict[str, Any]
    content: str


def content_of(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 for the files that make a classifier, the same on every machine, from the SHA-256 of each."""
    facts = [[name, hashes[name]] for name in CONTENT_FILES if name in hashes]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# --- writing ----------------------------------------------------------------------------------------------------------


def pack(folder: Path | str, origin: Origin) -> Generator[bytes, None, None]:
    """Return the bytes of a bundle, a piece at a time.

    Every file is opened before this returns: a folder that is deleted meanwhile is still sent whole.

    Args:
        folder: Where the classifier was saved.
        origin: What the reader is told about where it comes from.

    Raises:
        FileNotFoundError: No classifier there.
    """
    folder = Path(folder)
    files: dict[str, io.BufferedReader] = {}
    try:
        for name in CONTENT_FILES:
            path = folder / name
            if name != REPORT_FILE or path.exists():
                files[name] = path.open("rb")
    except BaseException:
        _close(files)
        raise
    return _packed(files, origin)


def _packed(files: Mapping[str, io.BufferedReader], origin: Origin) -> Generator[bytes, None, None]:
    pipe = _Pipe()
    marks: dict[str, dict[str, Any]] = {}
    try:
        with zipfile.ZipFile(pipe, "w") as archive:
            for name, file in files.items():
                digest, size = hashlib.sha256(), 0
                with archive.open(_entry(name, file.seek(0, io.SEEK_END)), "w") as out:
                    file.seek(0)
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
                        size += len(chunk)
                        out.write(chunk)
                        yield pipe.take()
                marks[name] = {"size": size, "sha256": digest.hexdigest()}
            facts = {"format": BUNDLE_FORMAT, **vars(origin), "files": marks}
            archive.writestr(_entry(ORIGIN_FILE, 0), json.dumps(facts, indent=1))
        yield pipe.take()
    finally:
        _close(files)


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.compress_type = zipfile.ZIP_STORED if name == TENSOR_FILE else zipfile.ZIP_DEFLATED
    entry.external_attr = _REGULAR_FILE
    entry.create_system = 3  # the same on every system
    entry.file_size = size
    return entry


def _close(files: Mapping[str, io.BufferedReader]) -> None:
    for file in files.values():
        file.close()


class _Pipe:
    """Where `zipfile` writes to; it cannot seek, so nothing is written twice."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is open here."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


# --- reading ----------------------------------------------------------------------------------------------------------


def unpack(path: Path | str, folder: Path | str, *, max_tensor_bytes: int = MAX_TENSOR_BYTES) -> Bundle:
    """Write the files of a bundle into a folder, after judging everything that can be judged without the backbone.

    Args:
        path: The zip.
        folder: Made where it is missing; of no use where this raises.
        max_tensor_bytes: Largest tensor file.

    Raises:
        BundleError: Not a bundle, damaged, of another version, or of content that cannot be used.
        ArchiveError: A hostile or unreadable zip; every fault is listed.
    """
    sizes = MAX_JSON_BYTES | {TENSOR_FILE: max_tensor_bytes}
    total = sum(sizes.values())
    if Path(path).stat().st_size > total + _DIRECTORY_BYTES:
        raise BundleError(f"The file has {Path(path).stat().st_size:,} bytes; no model of this server's has that many.")
    limits = Limits(
        archive_bytes=total + _DIRECTORY_BYTES,
        entries=64,  # few more than are expected, so that strangers are named
        entry_bytes=max(sizes.values()),
        total_bytes=64 * total,
        ratio=float("inf"),  # every size is bounded already
        directory_bytes=_DIRECTORY_BYTES,
    )
    with SafeArchive.open(path, limits) as archive:
        _check_members(archive, sizes)
        origin, marks = _read_origin(archive.read(ORIGIN_FILE))
        files = {entry.path: archive.read(entry) for entry in archive.entries if entry.path != ORIGIN_FILE}
    _check_marks(files, marks)
    manifest = _checked_json(files[MANIFEST_FILE], MANIFEST_FILE, manifest_faults)
    if REPORT_FILE in files:
        _checked_json(files[REPORT_FILE], REPORT_FILE, report_faults)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTENT_FILES:  # fixed names: nothing of the zip becomes a path
        if name in files:
            (folder / name).write_bytes(files[name])
    try:
        check_tensors(folder / TENSOR_FILE)
    except ArtefactError as error:
        raise _refusal("The exported model cannot be used", [Fault(TENSOR_FILE, error.message)]) from error
    return Bundle(origin, manifest, content_of({name: mark["sha256"] for name, mark in marks.items()}))


def load_unpacked(folder: Path | str, backbone: Backbone) -> Classifier:
    """Load what `unpack` wrote, and have it answer once, so that nothing is kept that cannot.

    Args:
        folder: Where it was unpacked.
        backbone: The very one it was tuned on. Its towers may run: call this where they may.

    Raises:
        BundleError: It cannot be loaded, or gives no finite answer.
        FingerprintMismatchError: Another backbone.
    """
    import torch

    from npt_core.classifier import Classifier

    try:
        classifier = Classifier.load(folder, backbone)
        grey = torch.zeros(1, 3, *backbone.image_size, device=backbone.device)
        if classifier.needs_pixels:
            scores = classifier.predict(grey)
        elif classifier.needs_tokens:
            with torch.no_grad():
                seen = backbone.image.encode_tokens(grey)
            scores = classifier.predict(seen.pooled, tokens=seen.tokens)
        else:
            scores = classifier.predict(backbone.encode_images(grey))
        finite = bool(torch.isfinite(scores.probabilities).all() and torch.isfinite(scores.similarities).all())
    except (ArtefactError, ConfigError, PromptError, UnsupportedBackboneError) as error:
        raise BundleError(f"The exported model cannot be used: {error.message}", error.faults) from error
    except RuntimeError as error:  # sizes that fit one by one and not together
        raise BundleError(f"The exported model does not compute ({type(error).__name__}); export it again.") from error
    if not finite:
        raise BundleError("The exported model answers with NaN or infinite scores; tune it again.")
    return classifier


def _check_members(archive: SafeArchive, sizes: Mapping[str, int]) -> None:
    found = {entry.path: entry.size for entry in archive.entries}
    faults = [Fault(name, "is missing") for name in (ORIGIN_FILE, MANIFEST_FILE, TENSOR_FILE) if name not in found]
    strangers = [*(name for name in found if name not in sizes), *(f"{name}/" for name in archive.folders)]
    faults += [Fault(shown(name, 200), f"does not belong here; accepted are {', '.join(sizes)}") for name in strangers]
    faults += [Fault(kind, "does not belong here; send the file as it was exported") for kind in archive.skipped]
    faults += [
        Fault(name, f"unpacks to {size:,} bytes; at most {sizes[name]:,} are accepted")
        for name, size in found.items()
        if size > sizes.get(name, size)
    ]
    if faults:
        raise _refusal("The file is not an exported model", faults)


def _read_origin(data: bytes) -> tuple[Origin, dict[str, dict[str, Any]]]:
    facts = _checked_json(data, ORIGIN_FILE, _origin_faults)
    return Origin(facts["id"], facts.get("name"), facts.get("version"), facts.get("created_at")), facts["files"]


def _origin_faults(facts: Any) -> list[Fault]:
    if not isinstance(facts, dict):
        return [Fault("", "is not an object")]
    if facts.get("format") != BUNDLE_FORMAT or isinstance(facts.get("format"), bool):
        return [Fault("format", f"is {str(facts.get('format'))[:40]!r}; this version reads {BUNDLE_FORMAT}")]
    if fault := plain_fault(facts):
        return [Fault("", fault)]
    known = {"format", "id", "name", "version", "created_at", "files"}
    faults = [Fault(shown(key, 100), "is not known to this version") for key in facts if key not in known]
    faults += [Fault(key, "is missing or no short text") for key in ("id",) if not _is_name(facts.get(key))]
    if facts.get("name") is not None and not _is_name(facts["name"]):
        faults.append(Fault("name", "is no short text"))
    version = facts.get("version")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or not 0 < version < 10**9):
        faults.append(Fault("version", "is not a number from 1"))
    if not _is_moment(facts.get("created_at")):
        faults.append(Fault("created_at", "is not a time as in RFC 3339"))
    files = facts.get("files")
    if not isinstance(files, dict) or not all(_is_mark(mark) for mark in files.values()):
        faults.append(Fault("files", "is not an object of sizes and SHA-256 hashes"))
    return faults


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= 200 and text_fault(value) is None


def _is_moment(value: Any) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, str) and len(value) < 64 and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_mark(mark: Any) -> bool:
    return isinstance(mark, dict) and isinstance(mark.get("size"), int) and isinstance(mark.get("sha256"), str)


def _check_marks(files: Mapping[str, bytes], marks: Mapping[str, Mapping[str, Any]]) -> None:
    faults = [Fault(name, f"is not listed in {ORIGIN_FILE}") for name in files if name not in marks]
    faults += [
        Fault(shown(name, 200), f"is listed in {ORIGIN_FILE} and missing") for name in marks if name not in files
    ]
    for name in files.keys() & marks.keys():
        data, mark = files[name], marks[name]
        if len(data) != mark["size"] or hashlib.sha256(data).hexdigest() != mark["sha256"]:
            faults.append(Fault(name, f"is not what was exported: its size or SHA-256 differs from {ORIGIN_FILE}"))
    if faults:
        raise _refusal("The exported model is damaged", faults)


def _checked_json(data: bytes, name: str, look: Any) -> dict[str, Any]:
    try:
        value = read_plain(data)
    except ValueError as error:
        fault = Fault(name, f"is not JSON that can be used ({shown(str(error), 100)})")
        raise _refusal("The exported model cannot be read", [fault]) from error
    faults = [Fault(f"{name}: {fault.path}" if fault.path else name, fault.message) for fault in look(value)]
    if faults:
        raise _refusal("The exported model cannot be used", faults)
    found: dict[str, Any] = value
    return found


def _refusal(what: str, faults: list[Fault]) -> BundleError:
    listed = "; ".join(f"{fault.path} {fault.message}" for fault in faults[:5])
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    return BundleError(f"{what}: {listed}{more}.", faults)
