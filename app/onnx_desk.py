"""Models as ONNX, for whoever asks: kept files at once, new ones made in the background while the asker waits a bit."""

from __future__ import annotations

import asyncio
from typing import BinaryIO

from anyio import to_thread

from app.backbones import Backbones
from app.problems import Problem
from npt_core.errors import ExportError
from npt_core.onnx_export import refusal, require_packages
from worker.models import ModelRepository
from worker.onnx_files import OnnxFiles
from worker.records import ModelRecord

WAIT_S = 20.0
"""A request waits this long for a file, less than any proxy does; then it is told to come again."""
MAX_WAITING = 8
RETRY_AFTER_S = 10.0


class OnnxDesk:
    """Belongs to one event loop.

    Args:
        files: Where the files are, and how one is made.
        models: The models.
        backbones: Those of this server.
        wait_s: How long a request waits.
    """

    def __init__(self, files: OnnxFiles, models: ModelRepository, backbones: Backbones, wait_s: float = WAIT_S) -> None:
        self._files, self._models, self._backbones, self._wait_s = files, models, backbones, wait_s
        self._turn = asyncio.Lock()
        self.looks: dict[str, float] = {"hit": 0, "miss": 0}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def open(self, model_id: str) -> tuple[BinaryIO, int]:
        """The file of a model, open for reading, and its size.

        Raises:
            NotFoundError: No such model.
            ExportError: This model, or this server, cannot.
            Problem: 409, its backbone is not on this server; 503, come again.
        """
        record = await to_thread.run_sync(self._models.get, model_id)
        found = await to_thread.run_sync(self._files.find, model_id)
        self.looks["miss" if found is None else "hit"] += 1
        if found is not None:
            return found
        await self._making(record)
        found = await to_thread.run_sync(self._files.find, model_id)
        if found is None:  # it fell to the limit of the cache at once
            raise Problem("not-ready", "The file was made and is gone again; try again.", retry_after_s=RETRY_AFTER_S)
        return found

    async def _making(self, record: ModelRecord) -> None:
        """Wait until the file is made, or raise what became of it."""
        task = self._tasks.get(record.id)
        if task is None:
            await self._refuse(record)
            task = self._tasks.get(record.id) or self._begin(record)
        await asyncio.wait({task}, timeout=self._wait_s)
        if not task.done():
            raise Problem(
                "not-ready",
                "The model is being written as ONNX, which takes a while the first time; ask again.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._tasks.pop(record.id, None)
        task.result()

    def _begin(self, record: ModelRecord) -> asyncio.Task[None]:
        for model_id in [model_id for model_id, task in self._tasks.items() if task.done()]:
            self._tasks.pop(model_id).exception()  # nobody came back for it
        if len(self._tasks) >= MAX_WAITING:
            raise Problem(
                "overloaded", f"{MAX_WAITING} models wait to be written as ONNX.", retry_after_s=RETRY_AFTER_S
            )
        task = self._tasks[record.id] = asyncio.create_task(self._make(record), name=f"onnx {record.id}")
        return task

    async def _make(self, record: ModelRecord) -> None:
        async with self._turn:
            await to_thread.run_sync(self._files.make, record)

    async def _refuse(self, record: ModelRecord) -> None:
        """Say at once what can be said without making anything."""
        await to_thread.run_sync(_refuse, record)
        specs = await self._backbones.known()
        if record.backbone not in specs:
            raise Problem(
                "backbone-not-configured",
                f"The model {record.id} was made with the backbone {record.backbone!r}, and its image tower becomes "
                f"part of the file. This server has {', '.join(specs)}.",
            )

    async def close(self) -> None:
        """End what is being made."""
        await to_thread.run_sync(self._files.close)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _refuse(record: ModelRecord) -> None:
    require_packages()
    why = refusal(record.method)
    if why is not None:
        raise ExportError(
            f"The model {record.id} cannot be written as ONNX: {why}. Only models whose class texts are fixed and "
            "whose image path is frozen can; use format=zip."
        )
