"""What is deployed names what there is: settings, Compose files, the lock file's two halves."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from app.settings import AppSettings
from tests.support.service import ROOT

SETTING = re.compile(r"^(#? ?)([A-Z][A-Z0-9_]*)=(.*)$")
COMPOSE_VARIABLE = re.compile(r"\$\{([A-Z_]+)[:?}-]")
SECRETS = {"REDIS_PASSWORD", "NPT_API_KEYS"}


def example() -> dict[str, tuple[bool, str]]:
    """Name -> (commented out?, value) of every variable in .env.example."""
    found: dict[str, tuple[bool, str]] = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        if match := SETTING.match(line):
            assert match[2] not in found, f"{match[2]} is there twice"
            found[match[2]] = (bool(match[1]), match[3])
    return found


def compose_variables() -> set[str]:
    text = "".join((ROOT / name).read_text() for name in ("docker-compose.yml", "docker-compose.gpu.yml"))
    return set(COMPOSE_VARIABLE.findall(text))


def test_env_example_names_every_setting_and_nothing_else() -> None:
    settings = {f"NPT_{name.upper()}" for name in AppSettings.model_fields}
    assert set(example()) == settings | compose_variables()


def test_env_example_sets_the_secrets_alone() -> None:
    assert {name for name, (commented, _) in example().items() if not commented} == SECRETS
    assert {example()[name][1] for name in SECRETS} == {""}


def test_env_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = AppSettings()
    for name, (_, value) in example().items():
        if value and name.startswith("NPT_"):
            monkeypatch.setenv(name, value)
    assert AppSettings() == defaults


def test_every_setting_is_explained() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for number, line in enumerate(lines):
        if SETTING.match(line):
            above = next(text for text in reversed(lines[:number]) if not SETTING.match(text))
            assert re.match(r"# \S", above), f"nothing explains {line}"
            assert not above.startswith("# ---"), f"nothing explains {line}"


def compose() -> dict[str, dict]:  # type: ignore[type-arg]
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_every_service_is_hardened_and_healthy() -> None:
    for name, service in compose().items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["restart"] == "unless-stopped", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "healthcheck" in service, name
        assert "mem_limit" in service, name


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service.get("ports", []) for name, service in compose().items()}
    assert published == {"api": ["${PUBLISH:-127.0.0.1:8000}:8000"], "worker": [], "redis": []}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    if not shutil.which("docker-compose"):
        pytest.skip("docker-compose is not installed")
    for file in ("docker-compose.yml", "docker-compose.gpu.yml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def test_compose_refuses_to_start_without_secrets(project: Path) -> None:
    shutil.copy(ROOT / ".env.example", project / ".env")
    refused = run_compose(project, "docker-compose.yml")
    assert refused.returncode != 0
    assert "in .env, see .env.example" in refused.stderr


def test_compose_accepts_both_files(project: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    filled = text.replace("PASSWORD=\n", "PASSWORD=secret\n").replace("API_KEYS=\n", f"API_KEYS={'k' * 32}\n")
    (project / ".env").write_text(filled)
    accepted = run_compose(project, "docker-compose.yml", "docker-compose.gpu.yml")
    assert accepted.returncode == 0, accepted.stderr
    services = yaml.safe_load(accepted.stdout)["services"]
    assert services["api"]["environment"]["NPT_REDIS_URL"] == "redis://:secret@redis:6379/0"
    assert services["worker"]["environment"]["NPT_API_KEYS"] == ""
    assert {name for name, service in services.items() if "deploy" in service} == {"api", "worker"}


def run_compose(folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    arguments = [part for file in files for part in ("-f", file)]
    return subprocess.run(
        ["docker-compose", *arguments, "config"],
        cwd=folder,
        env={"PATH": "/usr/bin:/usr/local/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def splitter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("split_lock", ROOT / "docker" / "split_lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(text: str) -> set[str]:
    return set(re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE))


def test_the_two_halves_are_the_lock(splitter: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    torch, rest = splitter.split(lock, other_index=False)
    assert names(torch) | names(rest) == names(lock)
    assert not names(torch) & names(rest)
    assert (torch + rest).count("--hash=") == lock.count("--hash=")
    assert {"torch", "torchvision"} <= names(torch)
    assert "fastapi" in names(rest)
    assert not [name for name in names(rest) if name.startswith(("nvidia-", "triton", "torch"))] or names(rest) >= {
        "torchmetrics"
    }


def test_another_index_brings_torch_alone_and_no_cuda(splitter: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    torch, rest = splitter.split(lock, other_index=True)
    assert names(torch) == {"torch", "torchvision"}
    assert "--hash=" not in torch
    assert not [name for name in names(rest) if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert "sympy" in names(rest)  # torch needs it whatever its build
    kept = {f"torch=={version}" for version in re.findall(r"^torch==(\S+)", lock, re.MULTILINE)}
    assert set(torch.split()) >= kept
