"""A client that a generator makes of the document: whole, without a warning, compiled, and talking to a real server."""

from __future__ import annotations

import compileall
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, coloured_zip, png

CONFIG = """\
content_type_overrides:  # kinds of bytes that the generator has no name for
  application/zip: application/octet-stream
  image/*: application/octet-stream
post_hooks: []
"""
NAME = "npt_generated_client"


@pytest.fixture(scope="module")
def client(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package that was generated, imported."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(api.client.get("/openapi.json").json()))
    (folder / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    command += ["--path", "openapi.json", "--output-path", NAME, "--config", "config.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    assert compileall.compile_dir(folder / NAME, quiet=2)
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module(NAME)
        yield package
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
            del sys.modules[name]


def call(client: Any, api: Api, tag: str, operation: str, **arguments: Any) -> Any:
    module = importlib.import_module(f"{NAME}.api.{tag}.{operation}")
    with client.Client(base_url=api.url) as opened:
        return module.sync_detailed(client=opened, **arguments)


def models(client: Any) -> Any:
    return importlib.import_module(f"{NAME}.models")


def test_every_operation_is_there(client: Any, api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    named = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    folder = Path(client.__file__).parent / "api"
    made = {path.stem for path in folder.glob("*/*.py") if path.stem != "__init__"}
    assert made == named
    for path in folder.glob("*/*.py"):
        if path.stem != "__init__":
            importlib.import_module(f"{NAME}.api.{path.parent.name}.{path.stem}")


def test_it_reads_what_the_server_says(client: Any, api: Api) -> None:
    found = call(client, api, "about", "list_backbones")
    assert found.status_code == 200
    assert [one.name for one in found.parsed.backbones] == ["tiny", "other"]


def test_it_sends_a_zip_and_a_config_and_follows_the_job(client: Any, api: Api) -> None:
    types = importlib.import_module(f"{NAME}.types")
    archive = types.File(
        payload=io.BytesIO(coloured_zip(first_seed=900)), file_name="a.zip", mime_type="application/zip"
    )
    body = models(client).TuneFilesBody(dataset=archive, config='{"epochs": 1}', name="generated")
    started = call(client, api, "tune", "tune", body=body)
    assert started.status_code == 202, started.content
    assert started.parsed.name == "generated"
    job = call(client, api, "jobs", "get_job", job_id=started.parsed.id)
    assert (job.parsed.id, job.parsed.status, job.parsed.config["epochs"]) == (started.parsed.id, "queued", 1)
    cancelled = call(client, api, "jobs", "cancel_job", job_id=job.parsed.id)
    assert cancelled.parsed.status == "cancelled"


def test_it_sends_images_and_reads_answers_and_problems(client: Any, api: Api) -> None:
    types = importlib.import_module(f"{NAME}.types")
    image = types.File(payload=io.BytesIO(png()), file_name="a.png", mime_type="image/png")
    body = models(client).PredictFilesBody(images=[image], model=["zero-shot"], labels='["red", "blue"]')
    answer = call(client, api, "predict", "predict", body=body)
    assert answer.status_code == 200, answer.content
    assert {one.label for one in answer.parsed.predictions[0].top} == {"red", "blue"}
    missing = call(client, api, "jobs", "get_job", job_id="job_none")
    assert missing.status_code == 404
    assert json.loads(missing.content)["code"] == "not-found"
