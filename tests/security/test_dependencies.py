"""The lock files are what they should be, and the audit that says so can fail."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.service import ROOT


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_lock", ROOT / "tools" / "audit_lock.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_is_one_version_with_hashes(audit: ModuleType, name: str) -> None:
    text = (ROOT / name).read_text()
    assert list(audit.faults_of_lock(text)) == []
    assert len(audit.pins_of(text)) > 50
    assert text.count("--hash=sha256:") >= len(audit.pins_of(text))


def test_every_dependency_of_the_project_is_locked_as_it_asks(audit: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = audit.pins_of((ROOT / "requirements-dev.lock").read_text())
    assert list(audit.faults_of_project(project, pins)) == []
    runtime = audit.pins_of((ROOT / "requirements.lock").read_text())
    assert {name: pins.get(name) for name in runtime} == runtime


GOOD = "one==1.0 \\\n    --hash=sha256:" + "a" * 64 + "\n    # via two\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one>=1.0\n", "no exact version"),
        ("one\n", "no exact version"),
        ("one==1.0\n", "has no SHA-256"),
        ("one==1.0 \\\n    --hash=md5:" + "a" * 32 + "\n", "has no SHA-256"),
        (GOOD.replace("a" * 64, "a" * 63), "has no SHA-256"),
        (GOOD + "two @ git+https://example.org/two\n", "no exact version"),
        ("--extra-index-url https://example.org\n" + GOOD, "leads away"),
        ("-e .\n" + GOOD, "leads away"),
        ("--no-binary one\n" + GOOD, "leads away"),
        ("-c other.txt\n" + GOOD, "leads away"),
        (GOOD + "    --config-settings=x=y\n", "leads away"),
        (GOOD + GOOD.replace("1.0", "1.1"), "is there 2 times"),
    ],
)
def test_the_audit_finds_a_lock_that_is_none(audit: ModuleType, text: str, said: str) -> None:
    assert list(audit.faults_of_lock(GOOD)) == []
    assert any(said in fault for fault in audit.faults_of_lock(text))


def test_the_audit_finds_what_is_installed_and_not_locked(audit: ModuleType) -> None:
    other, strange = audit.differences({"one": "1.1", "two": "2.0", "three": "3"}, {"one": "1.0", "two": "2.0"})
    assert other == ["one is 1.1, locked is 1.0"]
    assert strange == ["three 3 is in no lock"]


def test_the_audit_finds_what_the_project_asks_for_and_nobody_locked(audit: ModuleType) -> None:
    project = {"dependencies": ["one>=2"], "optional-dependencies": {"x": ["two"]}}
    assert len(list(audit.faults_of_project(project, {"one": "1.0"}))) == 2
    assert list(audit.faults_of_project(project, {"one": "2.1", "two": "1"})) == []


NEEDS = {
    "one": ["two; extra == 'more'", "three", "four; python_full_version < '3'"],
    "two": ["one", "five"],
    "six": ["seven"],
}


@pytest.mark.parametrize(
    ("wanted", "found"), [("one", {"one", "three"}), ("One[more]>=1", {"one", "two", "three", "five"})]
)
def test_the_audit_knows_what_is_needed_by_what(audit: ModuleType, wanted: str, found: set[str]) -> None:
    requirements = audit.wanted_by({"dependencies": [wanted, "six; python_full_version < '3'"]})
    assert audit.needed(requirements, lambda name: NEEDS.get(name, [])) == found


def test_nothing_is_locked_that_nobody_needs(audit: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = audit.pins_of((ROOT / "requirements-dev.lock").read_text())
    assert pins.keys() - audit.needed(audit.wanted_by(project), audit.needs_here) == set()


def test_the_audit_finds_what_nobody_needs(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*audit.LOCKS, "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    with (tmp_path / "requirements-dev.lock").open("a") as lock:
        lock.write(GOOD.replace("one==1.0", "reqeusts==1.0"))
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["audit_lock.py"])
    assert audit.main() == 1
    assert "reqeusts is locked, and nothing that pyproject.toml asks for needs it" in capsys.readouterr().err


def test_an_audit_that_reached_nobody_is_none() -> None:
    """Without --strict pip-audit passes packages over that it cannot ask about, and says that nothing was found."""
    recipe = (ROOT / "Makefile").read_text().partition("\naudit:")[2].partition("\n\n")[0]
    assert "pip-audit --strict" in recipe
    assert "pip-audit==" in recipe  # what is run is one version, too


def test_installing_asks_for_the_hashes() -> None:
    for name in ("Makefile", "docker/Dockerfile"):
        installs = [line for line in (ROOT / name).read_text().splitlines() if "install" in line and "-r " in line]
        assert installs, name
        assert all("--require-hashes" in line for line in installs if "torch.txt" not in line), name


def test_a_version_for_another_system_is_not_the_one_for_here(audit: ModuleType) -> None:
    here, there = "python_full_version >= '3'", "python_full_version < '3'"
    text = "".join(
        GOOD.replace("one==1.0", f"one=={version} ; {where}") for version, where in (("1.0", here), ("2.0", there))
    )
    assert audit.pins_of(text) == {"one": "1.0"}
    assert list(audit.faults_of_lock(text)) == []
