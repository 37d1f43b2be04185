"""The API as its users meet it: a process of its own on a port of its own, and what it takes of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Service:
    """One running service.

    Attributes:
        url: Where it answers.
        data: Its data folder.
        client: Speaks with it.
        api: The process that answers HTTP.
    """

    url: str
    data: Path
    client: httpx.Client
    api: psutil.Process

    def metric(self, name: str) -> float:
        """The sum over all labels of a metric of this name as `/metrics` spells it."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def resident(self, settle_s: float = 0.5) -> float:
        """Bytes of the API process in memory, the median of a few looks."""
        looks = []
        for _ in range(5):
            time.sleep(settle_s / 5)
            looks.append(self.api.memory_info().rss)
        return statistics.median(looks)

    def core_s(self) -> float:
        """Seconds for which the API process has kept a core busy."""
        return sum(self.api.cpu_times()[:2])


@contextlib.contextmanager
def running(data: Path | None = None, **settings: str) -> Iterator[Service]:
    """Start `python -m app` on a data folder (a fresh one for None) until the block ends, by SIGTERM too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = data or folder / "data"
        env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
        env |= {"NPT_DATA_DIR": str(data), "NPT_PORT": "0"} | settings
        log = folder / "log"
        address = data / "run" / "service.json"
        address.unlink(missing_ok=True)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "app"], cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
            )
        stack.callback(_end, process)
        while not address.exists():
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        url = json.loads(address.read_text())["url"]
        client = stack.enter_context(httpx.Client(base_url=url, timeout=300))
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        yield Service(url, data, client, _listener(process.pid, int(url.rsplit(":", 1)[1])))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)


def _listener(pid: int, port: int) -> psutil.Process:
    """The process of the service that serves the port: the largest of those that hold it."""
    root = psutil.Process(pid)
    holding = [
        one
        for one in (root, *root.children(recursive=True))
        if any(link.laddr and link.laddr.port == port for link in one.net_connections(kind="tcp"))
    ]
    return max(holding, key=lambda one: one.memory_info().rss)


def random_checkpoint(folder: Path, architecture: str, seed: int = 0) -> str:
    """Write random weights of an architecture that open_clip knows; the operator's words for them."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = open_clip.create_model(architecture)
    path = folder / "random.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return f"local:random={architecture}@{path}"
