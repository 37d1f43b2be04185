"""Models written as ONNX: made by a process of its own, one at a time, and kept as long as there is room."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from npt_core.errors import NPTError
from npt_core.onnx_export import RECIPE
from worker.errors import NotFoundError
from worker.models import LOCK, ModelRepository
from worker.records import ModelRecord
from worker.settings import WorkerSettings
from worker.store.base import Store

log = structlog.get_logger(__name__)

FOLDER = "exports"
TOLD = 2000
"""Characters of a failed process' last words that go into the log."""


class ExportFailed(NPTError):  # noqa: N818
    """The process that writes a model failed in a way nobody foresaw."""

    code = "export-failed"


class ExportRefused(NPTError):  # noqa: N818
    """What the process that writes models refused, under the code of the error it met."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # of this one error, not of its class


class OnnxFiles:
    """The ONNX files of a store's models. They can be made again: an LRU in `exports/`, bounded by bytes."""

    def __init__(self, store: Store, models: ModelRepository, settings: WorkerSettings) -> None:
        self._store = store
        self._models = models
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def find(self, model_id: str) -> tuple[BinaryIO, int] | None:
        """The file, open for reading, and its size; None where it is not made. Counts as a use of it."""
        key = _key(model_id)
        try:
            file = self._store.open(key)
        except NotFoundError:
            return None
        with contextlib.suppress(OSError):
            self._store.touch(key)
        return file, os.fstat(file.fileno()).st_size

    def make(self, record: ModelRecord) -> None:
        """Write a model, unless it was written meanwhile. Takes seconds to minutes; one at a time on this store.

        Raises:
            ExportRefused: this model cannot be written, or its backbone not be loaded.
            ExportFailed: the process died, or took too long.
            NotFoundError: the model was deleted meanwhile.
            StoreFullError: no room.
        """
        with self._store.lock("onnx"):
            if self._store.exists(_key(record.id)):
                return
            part = self._store.part()
            try:
                differences = self._run(record, part)
                with self._store.lock(LOCK):  # a model that is deleted takes its files along
                    self._models.get(record.id)
                    self._store.put_file(_key(record.id), part)
            finally:
                part.unlink(missing_ok=True)
        log.info("model written as onnx", model=record.id, differences=differences)
        self._trim(record.id)

    def _run(self, record: ModelRecord, out: Path) -> Any:
        wish = {
            "entries": self._settings.backbone_entries,
            "backbone": record.backbone,
            "weights": str(self._settings.weights_path),
            "folder": str(self._models.sound_folder(record.id)),
            "out": str(out),
            "facts": {"model_id": record.id, "name": record.name or "", "version": str(record.version or "")},
        }
        process = self._start()
        try:
            said, complained = process.communicate(json.dumps(wish).encode(), timeout=self._settings.onnx_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise ExportFailed(
                f"Writing the model took more than {self._settings.onnx_timeout_s:.0f} s and was ended "
                "(NPT_ONNX_TIMEOUT_S)."
            ) from None
        finally:
            with self._lock:
                self._process = None
        return _answer(record.id, process.returncode, said, complained)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise ExportFailed("The server is shutting down.")
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "worker.onnx_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            return self._process

    def _trim(self, newest: str) -> None:
        """Remove the least used models' files until the rest fits; the newest stays, as somebody waits for it."""
        used: dict[str, tuple[float, int]] = {}
        for key, size in self._store.walk(FOLDER):
            folder = key.rpartition("/")[0]
            with contextlib.suppress(NotFoundError):
                when, total = used.get(folder, (0.0, 0))
                used[folder] = (max(when, self._store.touched(key).timestamp()), total + size)
        room = self._settings.onnx_cache_bytes
        for folder, (_, size) in sorted(used.items(), key=lambda item: item[1], reverse=True):
            room -= size
            if room < 0 and folder != f"{FOLDER}/{newest}":
                self._store.delete(folder)

    def close(self) -> None:
        """End the process at work, if there is one."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()


def _key(model_id: str) -> str:
    return f"{FOLDER}/{model_id}/{RECIPE}.onnx"


def _answer(model_id: str, status: int, said: bytes, complained: bytes) -> Any:
    """What the process came to: its last line, which is ours whatever the libraries have printed before."""
    try:
        answer = json.loads(said.splitlines()[-1])
        if "code" not in answer:
            return answer["differences"]
    except (ValueError, IndexError, KeyError, TypeError):
        answer = {"code": "", "message": "", "unforeseen": f"ended with status {status}"}
    if not answer["code"]:
        last = complained.decode("utf-8", "replace")[-TOLD:]
        log.error("onnx export failed", model=model_id, why=answer.get("unforeseen"), stderr=last)
        raise ExportFailed("The model could not be written as ONNX; the operator finds the reason in the log.")
    raise ExportRefused(answer["code"], answer["message"])
