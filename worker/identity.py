"""Who a process is: its machine's boot, and a name that no later process will have."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import psutil


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def process_name(pid: int | None = None) -> str:
    """`<pid>-<start>`: numbers of processes come again, the pair does not. Empty where there is no such process."""
    pid = os.getpid() if pid is None else pid
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else f"{pid}-{fields[19]}"  # field 22: start, in ticks since boot
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except (OSError, IndexError):
        return ""
    try:  # no /proc: macOS
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{pid}-{int(process.create_time())}"
    except psutil.Error:
        return ""


def post(node: str, worker: str) -> str:
    """What a worker is called among those of all machines."""
    return f"{worker}@{node}"


def alive_here(name: str, node: str) -> bool:
    """Whether the worker of that `post` is one of this machine and still runs."""
    worker, _, its_node = name.partition("@")
    return its_node == node and alive(worker)


def alive(name: str) -> bool:
    """Whether the process of that name still runs on this machine."""
    pid = name.partition("-")[0]
    return pid.isdigit() and process_name(int(pid)) == name
