"""What the commands bring into memory: those that need no weights start without torch, and help without pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

IMPORTED = """
import json, runpy, sys
sys.argv = ["app", *json.loads(sys.argv[1])]
code = 0
try:
    runpy.run_module("app", run_name="__main__")
except SystemExit as end:
    code = end.code
print(json.dumps({"code": code, "modules": sorted(sys.modules)}), file=open(sys.argv[0] + ".json", "w"))
"""
TOWERS = {"torch", "torchvision", "open_clip", "sklearn", "celery", "fastapi", "matplotlib"}
PICTURES = {"numpy", "PIL", "redis"}


def imported(folder: Path, *arguments: str) -> set[str]:
    """Run a command as a person does, let it end well, and return the modules that it had in memory then."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
    env |= {"NPT_DATA_DIR": str(folder / "data"), "NPT_REDIS_URL": "redis://127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", IMPORTED, json.dumps(arguments)]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "app.json").read_text())
    assert told["code"] in (0, None), done.stderr
    assert "app.cli.main" in told["modules"]  # it was this program that ran
    return set(told["modules"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("serve", "--help"),
        ("keys", "--help"),
        ("keys", "create", "--scope", "admin"),
        ("keys", "list"),
        ("gc", "--help"),
        ("gc", "--dry-run"),
        ("gc",),
        ("verify",),
        ("tune", "--help"),
        ("predict", "--help"),
        ("doctor", "--help"),
    ],
    ids=" ".join,
)
def test_no_command_but_serving_imports_torch(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "data").mkdir()
    assert imported(tmp_path, *arguments) & TOWERS == set()


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("serve", "--help"), ("keys", "--help"), ("keys", "list"), ("gc", "--help")],
    ids=" ".join,
)
def test_help_and_keys_wait_for_no_picture_reader_and_no_client_of_redis(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert imported(tmp_path, *arguments) & PICTURES == set()


def test_help_waits_for_nothing_at_all(tmp_path: Path) -> None:
    assert imported(tmp_path, "--help") & (TOWERS | PICTURES | {"pydantic", "httpx", "structlog", "worker"}) == set()


def test_judging_an_archive_needs_no_picture_reader() -> None:
    code = "import sys, npt_core.data.archive; print({'numpy', 'PIL'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
