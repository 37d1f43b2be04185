"""How long a person waits: for help, for the commands that need no weights, and for a server that is ready.

    .venv/bin/python -m benchmarks.startup

Every figure is the median of processes started from nothing, in turns, with files in the disk's cache. A server is
ready at the first 200 of `/readyz`; beside it stands a bare process that imports the same and loads the same weights,
and does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.lone_api import ROOT, START_S, clean_environment, is_ready, running_api, running_broker

HELP_S = 1.0
READY_OVER_BARE_S = 1.0

BARE = """
import app.main, app.server
import torch
from npt_core.clip import load_backbone
load_backbone({backbone!r})
"""


def seconds_of(argv: list[str], env: dict[str, str]) -> float:
    """Seconds from the start of a command to its end, which must be a good one."""
    began = time.perf_counter()
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{argv[1:]}: {done.stderr[-2000:]}")
    return took


def command(folder: Path, *words: str) -> Callable[[], float]:
    data = folder / "commands"
    data.mkdir(exist_ok=True)
    env = clean_environment(NPT_DATA_DIR=str(data), NPT_REDIS_URL="redis://127.0.0.1:1")
    return lambda: seconds_of([sys.executable, "-m", "app", *words], env)


def bare(backbone: str) -> float:
    return seconds_of([sys.executable, "-c", BARE.format(backbone=backbone)], clean_environment())


def api(folder: Path, broker: str, backbone: str) -> float:
    """Seconds to ready of the API alone, on a new data folder and a broker that runs."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as own,
        running_api(Path(own), broker, {"NPT_BACKBONE": backbone}) as running,
    ):
        return running.ready_s


def whole_service(folder: Path, backbone: str) -> float:
    """Seconds to ready of broker, worker and API in one command."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        data, log = Path(own) / "data", Path(own) / "log"
        env = clean_environment(NPT_DATA_DIR=str(data), NPT_PORT="0", NPT_BACKBONE=backbone)
        began = time.perf_counter()
        with log.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            client: httpx.Client | None = None
            with contextlib.ExitStack() as stack:
                while client is None or not is_ready(client):
                    if process.poll() is not None or time.perf_counter() - began > START_S:
                        raise SystemExit(f"the service did not become ready:\n{log.read_text()[-4000:]}")
                    with contextlib.suppress(OSError, ValueError):
                        url = json.loads((data / "run" / "service.json").read_text())["url"]
                        client = client or stack.enter_context(httpx.Client(base_url=url, timeout=30))
                    time.sleep(0.02)
            return time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="processes of each kind")
    parser.add_argument("--backbone", default="demo", help="as NPT_BACKBONE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="npt-start-") as where, running_broker(Path(where) / "broker") as broker:
        folder, backbone = Path(where), arguments.backbone
        kinds: dict[str, Callable[[], float]] = {
            "python -c pass": lambda: seconds_of([sys.executable, "-c", "pass"], clean_environment()),
            "--help": command(folder, "--help"),
            "keys list": command(folder, "keys", "list"),
            "gc --dry-run": command(folder, "gc", "--dry-run"),
            "imports and weights alone": lambda: bare(backbone),
            "API ready": lambda: api(folder, broker, backbone),
            "broker, worker and API ready": lambda: whole_service(folder, backbone),
        }
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for turn in range(arguments.repeats + 1):  # the first of each fills the disk's cache and is not counted
            for name, measure in kinds.items():
                took = measure()
                if turn:
                    found[name].append(took)
    medians = {name: statistics.median(times) for name, times in found.items()}
    print(f"{arguments.repeats} of each, {os.cpu_count()} cores, backbone {backbone}\n")
    print("| what | seconds, median | least | most |")
    print("|---|---|---|---|")
    for name, times in found.items():
        print(f"| {name} | {medians[name]:.2f} | {min(times):.2f} | {max(times):.2f} |")
    over = medians["API ready"] - medians["imports and weights alone"]
    verdicts = [
        (f"--help: {medians['--help']:.2f} s, under {HELP_S:g} s wanted", medians["--help"] < HELP_S),
        (
            f"API ready {over:+.2f} s after imports and weights, +{READY_OVER_BARE_S:g} s wanted",
            over < READY_OVER_BARE_S,
        ),
    ]
    print()
    for text, good in verdicts:
        print(f"{'PASS' if good else 'FAIL'} {text}")
    return 0 if all(good for _, good in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
