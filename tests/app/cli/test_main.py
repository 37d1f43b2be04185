"""The tree of commands: its two names, its help, its exit codes, and how errors are said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from app.access.records import SCOPES
from app.cli.exits import CommandError, printable, told
from app.cli.keys import Scope
from app.cli.main import cli, main
from app.settings import AppSettings
from npt_core.errors import ConfigError, DatasetError, Fault
from tests.support.api import Api
from tests.support.service import ROOT

PROGRAM = [sys.executable, "-m", "app"]


def run(*arguments: str, program: Sequence[str] = PROGRAM, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
    settings = inherited | {"NPT_REDIS_URL": "redis://127.0.0.1:1", "COLUMNS": "200"} | env
    return subprocess.run(
        [*program, *arguments], cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=120
    )


def commands(group: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command that can be called, by its words."""
    found: dict[tuple[str, ...], Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, (*prefix, name))
        else:
            found[*prefix, name] = command
    return found


ALL = commands(typer.main.get_command(cli))


def test_the_entry_point_is_this_tree() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["npt"].partition(":")
    assert getattr(import_module(module), name) is main
    assert import_module("app.__main__").main is main


def test_help_lists_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for words in ALL:
        assert f" {words[0]} " in done.stdout
    assert "3 no server" in done.stdout


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_says_what_it_does_and_every_option_has_a_variable(words: tuple[str, ...]) -> None:
    command = ALL[words]
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.name == "help" or parameter.hidden:
            continue
        assert parameter.help, f"{words} {parameter.name} has no help"
        assert all(flag == flag.lower() for flag in parameter.opts)
        assert parameter.envvar or parameter.allow_from_autoenv, f"{words} {parameter.name} has no variable"
        assert not parameter.envvar or str(parameter.envvar).startswith("NPT_")


def test_options_of_serve_are_settings() -> None:
    fields = {f"NPT_{name.upper()}" for name in AppSettings.model_fields}
    assert {parameter.envvar for parameter in ALL["serve",].params if parameter.envvar} <= fields


def test_no_variable_of_an_option_is_a_setting_by_accident() -> None:
    fields = {f"NPT_{name.upper()}" for name in AppSettings.model_fields}
    for words, command in ALL.items():
        made = {f"NPT_{'_'.join(words)}_{one.name}".upper() for one in command.params if not one.envvar}
        assert made & fields == set(), words


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_speaks_json(words: tuple[str, ...]) -> None:
    if words != ("serve",):
        assert any("--json" in parameter.opts for parameter in ALL[words].params)


def test_keys_as_json(tmp_path: Path) -> None:
    made = json.loads(run("keys", "create", "--scope", "tune", "--json", "--data-dir", str(tmp_path)).stdout)
    assert made["key"].startswith("npt_")
    assert "digest" not in made
    ended = [run("keys", "revoke", made["id"], "--json", NPT_DATA_DIR=str(tmp_path)).stdout for _ in range(2)]
    assert [json.loads(one)["revoked"] for one in ended] == [True, False]


def test_an_option_of_serve_comes_before_the_variable() -> None:
    done = run("serve", "--port", "eighty", NPT_PORT="0")
    assert done.returncode == 2
    assert "NPT_PORT: Input should be a valid integer" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serv",), "Did you mean 'serve'?"),
        (("keys", "revok"), "Did you mean 'revoke'?"),
        (("keys", "create"), "--scope"),
        (("keys", "create", "--scope", "everything"), "everything"),
        (("gc", "jobs=3"), "--older-than"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_a_group_alone_says_what_it_has() -> None:
    done = run("keys")
    assert done.returncode == 2
    assert "revoke" in done.stdout + done.stderr


def test_a_variable_stands_for_an_option(tmp_path: Path) -> None:
    done = run("keys", "create", NPT_KEYS_CREATE_SCOPE="predict", NPT_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    listed = run("keys", "list", NPT_JSON="1", NPT_DATA_DIR=str(tmp_path))
    assert json.loads(listed.stdout)["scopes"] == ["predict"]


def test_completion_knows_the_commands(tmp_path: Path) -> None:
    script = tmp_path / "npt"
    script.write_text("import sys\nfrom app.cli.main import main\nsys.exit(main())\n")
    program = [sys.executable, str(script)]
    for shell in ("bash", "zsh", "fish"):
        done = run(program=program, _NPT_COMPLETE=f"source_{shell}", PYTHONPATH=str(ROOT))
        assert "_NPT_COMPLETE" in done.stdout, done.stderr
    words = {"COMP_WORDS": "npt keys re", "COMP_CWORD": "2", "PYTHONPATH": str(ROOT)}
    assert run(program=program, _NPT_COMPLETE="complete_bash", **words).stdout.split() == ["revoke"]


def test_scopes_are_those_of_keys() -> None:
    assert tuple(map(str, Scope)) == SCOPES


def test_errors_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [Fault("a/b.png", "is no picture"), Fault("lr", "must be positive")]
    assert told(DatasetError("Nothing is left.", faults), as_json=False) == 1
    assert capsys.readouterr().err == "npt: Nothing is left.\n  a/b.png: is no picture\n  lr: must be positive\n"
    assert told(ConfigError("lr must be positive", faults[1:]), as_json=True) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error == {
        "code": "invalid-config",
        "detail": "lr must be positive",
        "errors": [{"path": "lr", "message": "must be positive"}],
    }
    assert told(ConfigError("lr must be positive", faults[1:]), as_json=False) == 2
    assert capsys.readouterr().err == "npt: lr must be positive\n"  # said once
    assert told(KeyError("x"), as_json=False) is None
    many = [{"path": str(n), "message": f"fault {n}"} for n in range(30)]
    assert told(CommandError("Many.", "many", 1, many), as_json=False) == 1
    assert capsys.readouterr().err.endswith("and 10 more; --json lists all of them\n")


def test_a_terminal_is_given_no_commands_of_strangers() -> None:
    assert printable("a\x1b[2Jb\u202e\n") == "a\ufffd[2Jb\ufffd\n"


def test_a_missing_package_says_what_to_install(tmp_path: Path) -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("structlog", "pydantic", "redis", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from app.cli.main import main
sys.exit(main())
"""
    done = run("keys", "list", program=[sys.executable, "-c", code], NPT_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'npt-service[service]'" in done.stderr
    assert "Traceback" not in done.stderr


REFUSE = """
import sys
REFUSED = {refused}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from app.cli.main import main
sys.exit(main())
"""
MODULES = {
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "python-multipart": "python_multipart",
}


def service_modules() -> set[str]:
    """What the extra `service` installs, and a plain installation lacks."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["service"]
    names = (re.split(r"[^A-Za-z0-9_.-]", one, maxsplit=1)[0].lower().replace("_", "-") for one in extra)
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


@pytest.mark.parametrize(
    "arguments",
    [("models", "list"), ("jobs", "list"), ("datasets", "list"), ("aliases", "list"), ("jobs", "show", "job_x")],
    ids=" ".join,
)
def test_a_plain_installation_speaks_to_a_server(plain: Api, arguments: tuple[str, ...]) -> None:
    refused = service_modules()
    assert {"torch", "pydantic", "fastapi", "PIL"} <= refused
    program = [sys.executable, "-c", REFUSE.format(refused=refused)]
    done = run(*arguments, program=program, NPT_URL=plain.url)
    assert done.returncode == (1 if "show" in arguments else 0), done.stderr
    lacking = run("doctor", program=program)
    assert lacking.returncode == 2
    assert "pip install 'npt-service[service]'" in lacking.stderr
