"""A real API server for tests: uvicorn in a thread on a free port, a real Redis-protocol server, tiny random towers."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

from app.main import create_app
from app.server import watched
from app.settings import AppSettings
from app.wire import Wire
from tests.support.pictures import COLOURS, picture
from worker.service import Services, open_services

ARCH = "tiny-api-test"


@dataclass
class Api:
    """One running server."""

    url: str
    settings: AppSettings
    services: Services
    client: httpx.Client
    app: Any

    def parts(self) -> list[Path]:
        """Unfinished uploads on disk."""
        return list((self.settings.data_dir / "uploads").glob("*"))


@contextlib.contextmanager
def running_api(settings: AppSettings, **headers: str) -> Iterator[Api]:
    """Serve `create_app(settings)` until the block ends; the services are real and opened by the block."""
    services = open_services(settings)
    services.reaper.run_once()
    app = create_app(settings, services)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, http=Wire, lifespan="on", timeout_graceful_shutdown=2
    )
    server = watched(config, settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the server ended while it started"
        assert time.monotonic() < deadline, "the server did not start within 30 s"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=30, headers=headers) as client:
            yield Api(url, settings, services, client, app)
    finally:
        server.should_exit = True
        thread.join(20)
        services.close()
        assert not thread.is_alive(), "the server did not end within 20 s"


def write_towers(folder: Path) -> tuple[str, str]:
    """Write two tiny checkpoints and make their architecture known to open_clip; the operator's words for both."""
    import open_clip
    from safetensors.torch import save_file

    from tests.support.tiny_clip import tiny_model

    entries = []
    for seed, name in ((0, "tiny"), (1, "other")):
        model, config = tiny_model("clip", seed=seed)
        (folder / f"{ARCH}.json").write_text(json.dumps(config))
        path = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
        entries.append(f"local:{name}={ARCH}@{path}")
    open_clip.add_model_config(folder / f"{ARCH}.json")
    return entries[0], entries[1]


def png(colour: str = "red", seed: int = 0, side: int = 32) -> bytes:
    """A small picture as a file."""
    return encoded(picture(COLOURS[colour], seed, side))


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def archive(entries: Mapping[str, bytes]) -> bytes:
    """A zip in memory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return out.getvalue()


def coloured_zip(per_class: int = 3, first_seed: int = 0, colours: tuple[str, ...] = ("red", "green", "blue")) -> bytes:
    """A data set of coloured noise."""
    return archive({f"{colour}/{n}.png": png(colour, first_seed + n) for colour in colours for n in range(per_class)})


def store_model(
    services: Services,
    backbone_entry: str,
    *,
    name: str = "colours",
    method: str = "coop",
    calibration: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = ("red", "green", "blue"),
    **config: Any,
) -> str:
    """Save an untuned classifier, of three colours by default, as a model of the store; returns its id."""
    import torch

    from npt_core.classifier import Classifier, describe_class
    from npt_core.clip import ClassPrompt, load_backbone
    from npt_core.methods import get_method
    from worker.ids import new_id
    from worker.records import ModelDraft

    backbone = load_backbone(backbone_entry, device="cpu")
    classes = [ClassPrompt(label) for label in labels]
    cls = get_method(method)
    settings = cls.Config.from_dict(config)
    tuned = cls(settings, backbone, classes, generator=torch.Generator().manual_seed(0))
    manifest = {
        "format": 1,
        "method": method,
        "method_config": settings.to_dict(),
        "classes": [describe_class(one) for one in classes],
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "metrics": {"tuned": {"accuracy": 1.0}},
        "calibration": calibration,
    }
    report = {"metrics": {"tuned": {"accuracy": 1.0}, "zero_shot": {"accuracy": 0.5}}}
    model_id = new_id("model")
    folder = services.settings.data_dir / "jobs" / model_id
    Classifier(tuned, manifest, report).save(folder)
    draft = ModelDraft(
        name=name,
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        method=method,
        labels=labels,
        metrics=manifest["metrics"],
    )
    services.models.prepare(folder, draft, model_id=model_id, job_id=None)
    assert services.models.promote(f"jobs/{model_id}", model_id)
    return model_id


def change_manifest(services: Services, model_id: str, change: Callable[[str], str]) -> None:
    """Have a stored model be one that was written with another manifest."""
    from worker.models import RECORD, hash_file
    from worker.records import FileMark

    path = services.models.folder(model_id) / "manifest.json"
    path.write_text(change(path.read_text()))
    record = services.models.get(model_id)
    files = {**record.files, path.name: FileMark(size=path.stat().st_size, sha256=hash_file(path))}
    services.store.put(f"models/{model_id}/{RECORD}", record.model_copy(update={"files": files}).to_json())
