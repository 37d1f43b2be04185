from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
from open_clip import factory, pretrained

from tests.support.tiny_clip import tiny_config

ARCH = "tiny-for-tests"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that asks the network for anything finds none."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def archs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Tiny architectures that open_clip knows by name while the tests run, and their configs."""
    folder = tmp_path_factory.mktemp("configs")
    known = {
        ARCH: tiny_config("clip"),
        f"{ARCH}-deep": tiny_config("clip", layers=4),
        f"{ARCH}-custom": tiny_config("custom"),
        f"{ARCH}-quickgelu": tiny_config("quickgelu"),
    }
    for name, config in known.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield known
    factory._MODEL_CONFIG_PATHS.remove(Path(folder))
    for name in known:
        factory._MODEL_CONFIGS.pop(name)


@pytest.fixture
def publish(archs: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publish weights of `ARCH` under a tag, as open_clip lists them: `publish(tag, file, **facts)`."""

    def add(tag: str, path: Path, **facts: Any) -> str:
        tags = dict(pretrained._PRETRAINED.get(ARCH, {}))
        tags[tag] = {"file": str(path), **facts}
        monkeypatch.setitem(pretrained._PRETRAINED, ARCH, tags)
        return f"{ARCH}/{tag}"

    return add
