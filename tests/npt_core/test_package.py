"""The package's front door and its registries."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

import npt_core
from npt_core.collapse.base import REGULARIZERS
from npt_core.discovery import Registry
from npt_core.errors import ConfigError
from npt_core.methods import get_method, list_methods, register
from tests.support.toy_methods import Toy


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import npt_core, sys; print(sorted({'torch', 'numpy', 'open_clip', 'PIL'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_data_sets_need_no_torch() -> None:
    code = "import npt_core, sys; npt_core.Dataset; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("name", npt_core.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(npt_core, name) is not None
    assert name in dir(npt_core)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = npt_core.nothing_like_this


def test_methods_are_found_by_their_files() -> None:
    infos = {info.name: info for info in list_methods()}
    assert {"coop", "zero_shot"} <= infos.keys()
    assert infos["coop"].schema["properties"]["n_ctx"]["default"] == 4
    assert infos["coop"].defaults["regularizer"] == "npt"
    assert infos["zero_shot"].defaults["regularizer"] == "none"
    assert "arXiv" in infos["coop"].source
    with pytest.raises(ConfigError, match="accepted: .*coop"):
        get_method("koop")


def test_a_name_can_be_taken_once() -> None:
    assert "npt" in REGULARIZERS.names()
    with pytest.raises(ConfigError, match="Two methods are called 'coop'"):
        register(type("Other", (Toy,), {"name": "coop"}))
    with pytest.raises(ConfigError, match="Two regularisers"):
        REGULARIZERS.add("npt", type("Other", (), {}))


def test_a_method_must_declare_itself() -> None:
    from npt_core.methods import Method

    with pytest.raises(ConfigError, match="title, source"):
        register(type("Half", (Method,), {"name": "half", "Config": object}))


def test_a_registry_of_a_package_forgets_on_request() -> None:
    registry: Registry[object] = Registry("npt_core.report", "thing")
    registry.add("one", object)
    assert registry.names() == ["one"]
    registry.remove("one")
    assert registry.names() == []


def test_who_asks_while_a_registry_is_being_filled_gets_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_things").mkdir()
    (tmp_path / "slow_things" / "__init__.py").write_text(
        "from threading import Event\nfrom npt_core.discovery import Registry\n"
        "REGISTRY = Registry('slow_things', 'thing')\nbegan, go_on = Event(), Event()\n"
    )
    (tmp_path / "slow_things" / "one.py").write_text(
        "from slow_things import REGISTRY, began, go_on\n"
        "assert REGISTRY.names() == []  # as a module of the package may\n"
        "began.set(); assert go_on.wait(20); REGISTRY.add('one', object)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    things = importlib.import_module("slow_things")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(things.REGISTRY.names)
        assert things.began.wait(20)
        second = pool.submit(things.REGISTRY.names)
        wait([second], timeout=0.2)
        things.go_on.set()
        assert first.result() == second.result() == ["one"]
