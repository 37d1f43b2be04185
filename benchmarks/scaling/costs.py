"""What things take: bytes, memory, seconds of a start and of what goes on beside requests, decoding a picture."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.scaling.fill import IMAGES_A_CLASS, SHAPES
from benchmarks.scaling.rig import Process, Rig, wait_for
from worker.measuring import file_sizes
from worker.service import Services

ANOTHER_LINE = "nothing-waits-here"


def footprint(services: Services) -> dict[str, tuple[int, int]]:
    """Number and bytes of each kind of thing, on disk and in Redis."""
    root: Path = services.settings.data_dir
    names = services.store.names
    archives = sum(file_sizes(root / "archives"))
    features = list(file_sizes(root / "features"))
    return {
        "a queued job, in Redis": (len(names("jobs")), int(services.redis.info("memory")["used_memory"])),
        "a queued job, on disk": (len(names("jobs")), sum(file_sizes(root / "jobs"))),
        "a data set beside its zip": (len(names("datasets")), sum(file_sizes(root / "datasets"))),
        "its zip (4 tiny pictures)": (len(names("datasets")), archives),
        "a model (4 classes)": (len(names("models")), sum(file_sizes(root / "models"))),
        "cached features of an image, all its views": (len(SHAPES) * IMAGES_A_CLASS, sum(features)),
    }


def told_footprint(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """Bytes of one more of each kind; of what did not become more, bytes of one."""
    for what, (number, nbytes) in after.items():
        more, grown = number - before[what][0], nbytes - before[what][1]
        each = grown / more if more else nbytes / number
        yield f"{what[0].upper()}{what[1:]}: {each:,.0f} bytes."


def resident_mib(pid: int) -> float:
    """Memory of a process and those it started."""
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


def rounds(services: Services) -> dict[str, float]:
    """Seconds of what goes on beside the requests, now and then."""
    done: dict[str, Callable[[], object]] = {
        "Bytes of the store, measured once a minute by a process of its own": services.usage.refresh,
        "Looking for what may go, once an hour in a worker": services.retention.find,
    }
    found = {}
    for what, one in done.items():
        began = time.monotonic()
        one()
        found[what] = time.monotonic() - began
    return found


def restarts(rig: Rig) -> Iterator[tuple[str, float, float]]:
    """What was started again, seconds of its reconciliation, and (the API) seconds until it was ready."""
    for name, emptied in (("Redis kept its file", False), ("Redis had lost everything", True)):
        with rig.broker(emptied=emptied) as url, rig.api(url) as (_, api, ready):
            wait_for("the API to reconcile", partial(api.told, "reconciled"))
            yield f"API started, {name}", _reconciled(api), ready
        # It listens on a line where nothing waits: what is queued stays queued, and it reconciles all the same.
        with rig.broker(emptied=emptied) as url, rig.worker(url, NPT_QUEUE=ANOTHER_LINE) as worker:
            wait_for("the worker to reconcile", partial(worker.told, "reconciled"))
            yield f"worker started, {name}", _reconciled(worker), 0.0


def _reconciled(process: Process) -> float:
    return float(process.told("reconciled")[0]["seconds"])


def decode_ms(repeats: int = 30) -> Iterator[tuple[str, float]]:
    """Milliseconds of one core to decode and prepare a JPEG for a tower of 224 pixels, by its size."""
    import torch
    from open_clip import get_model_config
    from open_clip.model import CLIP

    from npt_core.clip import Backbone
    from npt_core.tuning.features import load_picture

    config = get_model_config("ViT-B-32")
    wanted = ("embed_dim", "vision_cfg", "text_cfg")
    backbone = Backbone.from_model(CLIP(**{key: config[key] for key in wanted}), config, name="random")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a picture is too small to be shared out, and threads that wait for work look busy
    try:
        for width, height in ((500, 375), (1600, 1200), (4000, 3000)):
            data = _photo(width, height)
            seconds = []
            for _ in range(repeats):
                began = time.thread_time()
                load_picture(backbone, data)
                seconds.append(time.thread_time() - began)
            yield f"{width} × {height}, {len(data) / 1024:,.0f} KiB", 1000 * statistics.median(seconds)
    finally:
        torch.set_num_threads(threads)


def _photo(width: int, height: int) -> bytes:
    """A JPEG of blobs under a little noise: about the bytes a pixel that photographs have."""
    rng = np.random.default_rng(7)
    blobs = Image.fromarray(rng.integers(0, 255, (height // 50, width // 50, 3), dtype=np.uint8))
    pixels = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    out = io.BytesIO()
    Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)).save(
        out, "JPEG", quality=88
    )
    return out.getvalue()
