"""What `npt doctor` looks at. Each check gives what was found and, where it is not well, what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from app.settings import AppSettings

LOAD_TIMEOUT_S = 600
REDIS_WAIT_S = 2.0
LITTLE_MEMORY = 2 << 30
NOWHERE = "http://127.0.0.1:9"
"""Nobody listens there. Some weights come from the hub, which can be told to stay offline, and some by plain HTTP."""
TORCHVISION_MINOR = 15
"""torch 2.N goes with torchvision 0.(N + 15)."""


@dataclass(frozen=True)
class Check:
    """One look at one thing."""

    name: str
    state: Literal["ok", "warning", "problem"]
    found: str
    do: str = ""


def every_check(*, load: bool) -> Iterator[Check]:
    """Every check, as it is done; a check that breaks is a finding of its own."""
    from pydantic import ValidationError

    yield from _guarded("python", python)
    yield from _guarded("packages", packages)
    try:
        from app.settings import AppSettings

        settings = AppSettings()
    except ValidationError as error:
        from worker.settings import faults_in

        yield Check("settings", "problem", "; ".join(faults_in(error)), "Correct these variables; see .env.example.")
        return
    yield Check("settings", "ok", "can be read")
    yield from _guarded("device", lambda: device(settings))
    yield from _guarded("memory", memory)
    yield from _guarded("data", lambda: data_folder(settings))
    if settings.store_url is not None:
        yield from _guarded("store", lambda: bucket(settings))
    yield from _guarded("redis", lambda: redis(settings))
    yield from _guarded("port", lambda: port(settings))
    yield from _guarded("access", lambda: access(settings))
    for entry in settings.backbone_entries:
        yield from _guarded("weights", partial(weights, settings, entry, load=load))


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    from npt_core.errors import NPTError

    try:
        yield from look()
    except NPTError as error:
        yield Check(name, "problem", error.message)
    except ImportError as error:
        yield Check(name, "problem", f"cannot be checked: {error}", "Install the packages again: make install.")
    except (OSError, RuntimeError, ValueError) as error:
        yield Check(name, "problem", f"cannot be checked: {type(error).__name__}: {error}")


def python() -> Iterator[Check]:
    """The interpreter."""
    yield Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def packages() -> Iterator[Check]:
    """Torch and torchvision belong together: a wrong pair fails at the first image, and in words nobody understands."""
    try:
        torch, vision = metadata.version("torch"), metadata.version("torchvision")
    except metadata.PackageNotFoundError as error:
        yield Check(
            "packages", "problem", f"{error.name} is not installed", "make install, or pip install the package."
        )
        return
    pair = f"torch {torch} with torchvision {vision}"
    expected = int(torch.split(".")[1]) + TORCHVISION_MINOR
    builds = {version.partition("+")[2] for version in (torch, vision)}
    if vision.split(".")[:2] != ["0", str(expected)] or len(builds) > 1:
        yield Check(
            "packages",
            "problem",
            f"{pair} do not belong together",
            f"Install torchvision 0.{expected} of the same build ({torch.partition('+')[2] or 'the default one'}).",
        )
        return
    import torchvision.ops  # fails here where the two were built apart

    torchvision.ops.nms  # noqa: B018 - the look-up is the check
    yield Check("packages", "ok", f"{pair}; open_clip {metadata.version('open_clip_torch')}")


def device(settings: AppSettings) -> Iterator[Check]:
    """What it computes on; a small product is computed there."""
    import torch

    from npt_core.clip.precision import resolve_device, resolve_precision

    where = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, where)
    square = torch.ones(64, 64, device=where)
    if float((square @ square).sum().cpu()) != 64.0**3:
        yield Check("device", "problem", f"{where} computes wrongly", "Use another device: NPT_DEVICE=cpu.")
        return
    if where.type == "cuda":
        free, total = torch.cuda.mem_get_info(where)
        name = torch.cuda.get_device_name(where)
        yield Check(
            "device", "ok", f"{where} ({name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free), {precision}"
        )
        return
    threads = settings.torch_threads or torch.get_num_threads()
    yield Check("device", "ok", f"{where}, {precision}, {threads} threads")
    if where.type == "cpu" and shutil.which("nvidia-smi"):
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no usable driver"
        do = "Install a CUDA build of torch, or a driver new enough for it; `nvidia-smi` shows the driver's version."
        yield Check("device", "warning", f"there is an NVIDIA driver here, and {why}", do)


def memory() -> Iterator[Check]:
    """Room in memory."""
    import psutil

    found = psutil.virtual_memory()
    words = f"{found.available / 2**30:.1f} of {found.total / 2**30:.1f} GiB are free"
    low = found.available < LITTLE_MEMORY
    do = "API and worker need about 1 GiB each, and the weights of the backbone twice." if low else ""
    yield Check("memory", "warning" if low else "ok", words, do)


def data_folder(settings: AppSettings) -> Iterator[Check]:
    """Whether the store can be written, has room, and is on a file system that keeps its promises."""
    folder = settings.data_dir
    there = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        _try_out(there)
    except OSError as error:
        do = "Make it writable for this user, or choose another with NPT_DATA_DIR."
        yield Check("data", "problem", f"{there} cannot be written to: {error}", do)
        return
    free = shutil.disk_usage(there).free
    words = f"{folder}{'' if folder.exists() else ' (will be made)'}, {free / 2**30:.1f} GiB free"
    if free < settings.min_free_bytes:
        do = f"Make room: `npt gc`, or lower NPT_MIN_FREE_BYTES ({settings.min_free_bytes:,}); uploads are refused."
        yield Check("data", "problem", words, do)
    else:
        yield Check("data", "ok", words)


def bucket(settings: AppSettings) -> Iterator[Check]:
    """Whether the bucket that holds the store is there, lets us in, and heeds conditional writes."""
    from npt_core.errors import ConfigError
    from worker.store.opening import open_store

    try:
        open_store(settings)
    except ConfigError as error:
        yield Check("store", "problem", error.message, "docs/deploy.md says under A bucket what a bucket needs.")
        return
    yield Check("store", "ok", f"{settings.store_url} can be used, conditional writes included")


def _try_out(folder: Path) -> None:
    """Write, flush and remove a file, as the store does; being root says nothing of what a file system takes."""
    import secrets

    probe = folder / f".tmp-{secrets.token_hex(8)}"
    try:
        with probe.open("xb") as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def redis(settings: AppSettings) -> Iterator[Check]:
    """The broker: the one that is named, or the one that would be started."""
    from worker.broker import BrokerError, check_answers, find_server
    from worker.redis_url import RedisAddress

    if settings.redis_url is None:
        server = find_server()
        yield Check("redis", "ok", f"none is named; the service starts its own, {server}")
        return
    address = RedisAddress.parse(settings.redis_address)
    try:
        check_answers(address, REDIS_WAIT_S)
    except BrokerError as error:
        do = "Start it, correct NPT_REDIS_URL, or unset it: then the service starts its own."
        yield Check("redis", "problem", error.message, do)
        return
    with address.client() as client:
        facts = client.info()
        policy = str(facts.get("maxmemory_policy", "noeviction"))
    version = facts.get("valkey_version") or facts.get("redis_version")
    words = f"{address} answers, version {version}"
    if policy != "noeviction" and facts.get("maxmemory"):
        do = "Set maxmemory-policy noeviction: a queue must not lose what it holds."
        yield Check("redis", "warning", f"{words}, and may evict keys ({policy})", do)
    else:
        yield Check("redis", "ok", words)


def port(settings: AppSettings) -> Iterator[Check]:
    """Whether it can listen, or a service of this folder does already."""
    from app.listener import ListenError, listen

    running = _running(settings)
    if running is not None:
        yield Check("port", "ok", f"a service on this data folder runs at {running}")
        return
    try:
        listen(settings.host, settings.port).close()
    except ListenError as error:
        do = "Stop what listens there, or choose another port with NPT_PORT; 0 picks a free one."
        yield Check("port", "problem", error.message, do)
        return
    yield Check("port", "ok", f"{settings.host} port {settings.port} is free")


def _running(settings: AppSettings) -> str | None:
    """The address of a service that runs on the data folder."""
    import httpx

    try:
        url = str(json.loads((settings.run_dir / "service.json").read_bytes())["url"])
        return url if httpx.get(f"{url}/livez", timeout=5).json().get("status") == "alive" else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, httpx.HTTPError):
        return None


def access(settings: AppSettings) -> Iterator[Check]:
    """Who may use it."""
    from app.auth import keyring_of

    keyring = keyring_of(settings)
    words = "open to this machine alone" if keyring.is_open else "with an API key"
    if keyring.is_open or keyring.has_usable:
        yield Check("access", "ok", f"{settings.host}: {words}")
    else:
        do = "Make one: npt keys create --scope admin"
        yield Check("access", "warning", f"{settings.host}: {words}, and there is none that is accepted", do)


def weights(settings: AppSettings, entry: str, *, load: bool) -> Iterator[Check]:
    """Whether the weights of a backbone are here and work: in a process of its own that cannot download."""
    from npt_core.clip.specs import parse_backbone

    spec = parse_backbone(entry)
    if not load:
        yield Check("weights", "ok", f"{spec.name}: not looked at (--no-load)")
        return
    nowhere = {
        name: NOWHERE for word in ("http", "https", "all") for name in (f"{word}_proxy", f"{word}_proxy".upper())
    }
    offline = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "", "no_proxy": "", **nowhere}
    env = os.environ | offline | {"NPT_DATA_DIR": str(settings.data_dir), "NPT_JSON": "1"}
    command = [sys.executable, "-m", "app", "prefetch", entry]
    done = subprocess.run(  # noqa: S603 - our own module
        command, env=env, capture_output=True, text=True, check=False, timeout=LOAD_TIMEOUT_S
    )
    if done.returncode == 0:
        facts = json.loads(done.stdout)
        photographs = "" if facts["knows_photographs"] else "; it knows no photographs"
        yield Check("weights", "ok", f"{spec.name}: loaded in {facts['seconds']} s{photographs}")
        return
    try:
        reason = str(json.loads(done.stderr.splitlines()[-1])["error"]["detail"])
    except (ValueError, KeyError, IndexError, TypeError):
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    do = f"Download them once: npt prefetch {entry}" if spec.kind in ("open_clip", "hf-hub") else ""
    yield Check("weights", "problem", f"{spec.name}: {reason}", do)
