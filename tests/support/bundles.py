"""Exported models, honest and otherwise."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from npt_core.bundle import CONTENT_FILES

TENSORS = "classifier.safetensors"

GOOD: dict[str, Any] = {
    "format": 1,
    "created_at": "2026-11-23T22:14:05+00:00",
    "method": "coop",
    "method_config": {"n_ctx": 4},
    "classes": [
        {"label": "red", "name": "red", "phrasings": ["red"]},
        {"label": "dark_blue", "name": "dark blue", "phrasings": ["dark blue", "navy"]},
    ],
    "config": {"regularizer": "npt"},
    "backbone": {"name": "demo", "fingerprint": "a" * 64},
    "dataset_id": "b" * 64,
    "samples": [{"path": "red/1.png", "sha256": "c" * 64}],
    "parent": None,
    "metrics": {},
    "refitted": True,
    "tuned_share": 1.0,
    "chosen_by": None,
    "calibration": {"temperature": 1.4, "count": 40, "source": "held-out", "reject_below": None},
    "assumed_frequencies": None,
}


def rezipped(zipped: Path, change: Callable[[dict[str, bytes]], Any], *, honest: bool = True) -> bytes:
    """The same zip with other members; `honest`: their hashes are told as they are."""
    with zipfile.ZipFile(zipped) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    told = files["export.json"]
    change(files)
    if honest and files.get("export.json") == told:
        facts = json.loads(told)
        facts["files"] = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
            if name in CONTENT_FILES
        }
        files["export.json"] = json.dumps(facts).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def manifest(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | changes).encode()

    return change


def facts(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["export.json"] = json.dumps(json.loads(files["export.json"]) | changes).encode()

    return change


def member(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: data})


def header(tensors: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + body


TENSORS = "classifier.safetensors"

HONEST: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    # what is in the zip
    "no-manifest": (lambda f: f.pop("manifest.json"), "manifest.json is missing"),
    "no-tensors": (lambda f: f.pop(TENSORS), "classifier.safetensors is missing"),
    "no-origin": (lambda f: f.pop("export.json"), "export.json is missing"),
    "a-pickle": (member("model.pkl", b"\x80\x04."), "model.pkl does not belong"),
    "code": (member("code/run.py", b"import os"), "code/run.py does not belong"),
    "a-folder": (member("weights/", b""), "weights/ does not belong"),
    "litter": (member("__MACOSX/._manifest.json", b"x"), "__MACOSX does not belong"),
    "a-dotfile": (member(".env", b"x"), "dotfiles does not belong"),
    "a-data-set": (lambda f: (f.clear(), f.update({"cat/1.png": b"x"})), "export.json is missing"),
    # export.json
    "origin-no-json": (member("export.json", b"{"), "export.json is not JSON"),
    "origin-deep": (member("export.json", b"[" * 100_000), "export.json is not JSON"),
    "origin-a-list": (member("export.json", b"[]"), ""),
    "origin-of-tomorrow": (facts(format=2), "export.json: format is '2'"),
    "origin-unknown-key": (facts(run="rm"), "export.json: run is not known"),
    "origin-no-id": (facts(id=None), "export.json: id"),
    "origin-long-name": (facts(name="x" * 201), "export.json: name"),
    "origin-name-hides": (facts(name="a\u202eb"), "export.json: name"),
    "origin-version": (facts(version=0), "export.json: version"),
    "origin-no-time": (facts(created_at="yesterday"), "export.json: created_at"),
    "origin-time-without-zone": (facts(created_at="2026-11-23T22:14:05"), "export.json: created_at"),
    # manifest.json: the table of test_artefact has all of it
    "manifest-no-json": (member("manifest.json", b"\xff"), "manifest.json is not JSON"),
    "manifest-a-huge-number": (member("manifest.json", b'{"format": ' + b"1" * 10_000 + b"}"), "manifest.json is not"),
    "manifest-of-tomorrow": (manifest(format=2), "manifest.json: format is 2"),
    "manifest-unknown-key": (manifest(temperature_of_tomorrow=2), "temperature_of_tomorrow is not known"),
    "manifest-one-class": (manifest(classes=[]), "manifest.json: classes has 0 entries"),
    "manifest-no-fingerprint": (manifest(backbone={"name": "x"}), "backbone.fingerprint"),
    "report-no-object": (member("report.json", b"3"), "report.json is a number"),
    "report-deep": (member("report.json", b'{"metrics": ' + b"[" * 300 + b"]" * 300 + b"}"), "report.json"),
    # tensors
    "tensors-empty": (member(TENSORS, b""), "header"),
    "tensors-a-pickle": (member(TENSORS, b"\x80\x04\x95" + b"x" * 40), "header"),
    "tensors-long-header": (member(TENSORS, struct.pack("<Q", 1 << 40) + b"{}"), "header"),
    "tensors-header-no-json": (member(TENSORS, struct.pack("<Q", 3) + b"{{{"), "no safetensors file"),
    "tensors-claims-more": (
        member(TENSORS, header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})),
        "claims",
    ),
    "tensors-strange-type": (
        member(TENSORS, header({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4)),
        "not accepted",
    ),
    "tensors-too-many": (
        member(TENSORS, header({f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(5000)})),
        "5000 tensors",
    ),
}


LYING: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "another-tensor-byte": lambda f: f.update({TENSORS: f[TENSORS][:-1] + bytes([f[TENSORS][-1] ^ 1])}),
    "shorter-tensors": lambda f: f.update({TENSORS: f[TENSORS][:-4]}),
    "another-label": lambda f: f.update({"manifest.json": f["manifest.json"].replace(b"green", b"blues")}),
    "another-report": member("report.json", b"{}"),
    "no-report-any-more": lambda f: f.pop("report.json"),
    "unlisted": facts(files={}),
    "listed-twice": facts(files={"../x": {"size": 1, "sha256": "0"}}),
    "no-list": facts(files=[1]),
    "marks-of-other-types": facts(files={TENSORS: {"size": "1", "sha256": 3}}),
}


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / TENSORS
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
