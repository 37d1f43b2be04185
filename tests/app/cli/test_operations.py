"""`npt verify`, `npt doctor`, `npt prefetch`: as an operator types them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli import checks
from app.settings import AppSettings
from tests.support.api import running_api, store_model, write_towers
from tests.support.terminal import npt


def told(data: Path, **settings: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit code and checks by name."""
    done = npt("doctor", "--json", "--no-load", NPT_DATA_DIR=str(data), **settings)
    found: dict[str, list[dict[str, str]]] = {}
    for line in done.stdout.splitlines():
        check = json.loads(line)
        found.setdefault(check["check"], []).append(check)
    assert "Traceback" not in done.stderr
    return done.returncode, found


def test_verify_by_id_and_code(
    make_settings: Callable[..., AppSettings], towers: tuple[str, str], tmp_path: Path
) -> None:
    settings = make_settings(backbone=towers[0])
    with running_api(settings) as api:
        good, bad = (store_model(api.services, towers[0]) for _ in range(2))
    data = {"NPT_DATA_DIR": str(settings.data_dir)}
    assert npt("keys", "create", "--scope", "admin", **data).returncode == 0
    whole = npt("verify", **data)
    assert whole.returncode == 0, whole.stderr
    assert "Nothing is damaged: 3 things looked at" in whole.stderr
    assert whole.stdout == ""

    (settings.data_dir / "models" / bad / "manifest.json").write_text("{}")
    key = next((settings.data_dir / "keys").glob("*.json"))
    key.write_text("nothing")
    damaged = npt("verify", **data)
    assert damaged.returncode == 1
    assert bad in damaged.stdout
    assert good not in damaged.stdout
    assert "manifest.json" in damaged.stdout
    lines = [json.loads(line) for line in npt("verify", "--json", **data).stdout.splitlines()]
    assert {(one["kind"], one["id"]) for one in lines} == {("model", bad), ("key", key.stem)}


def test_verify_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = npt("verify", "--data-dir", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_doctor_finds_nothing_where_all_is_well(tmp_path: Path, redis_server) -> None:  # type: ignore[no-untyped-def]
    code, found = told(tmp_path / "data", NPT_REDIS_URL=redis_server.url, NPT_PORT="0")
    assert code == 0
    assert {"python", "packages", "device", "memory", "data", "redis", "port", "access", "weights"} <= found.keys()
    assert "answers, version" in found["redis"][0]["found"]
    assert not (tmp_path / "data").exists()  # it changes nothing


def test_doctor_says_everything_that_is_wrong_at_once_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        wrong = {
            "NPT_REDIS_URL": "redis://127.0.0.1:1",
            "NPT_HOST": "0.0.0.0",
            "NPT_PORT": str(taken.getsockname()[1]),
            "NPT_DEVICE": "cuda:99",
            "NPT_MIN_FREE_BYTES": str(2**60),
        }
        code, found = told(tmp_path, **wrong)
    assert code == 1
    expected = {
        "redis": ("no broker answers", "unset it"),
        "access": ("no API key", ""),
        "port": ("cannot listen on 0.0.0.0", "NPT_PORT"),
        "device": ("not on this machine", ""),
        "data": ("GiB free", "npt gc"),
    }
    assert {name for name, (one, *_) in found.items() if one["state"] == "problem"} == expected.keys()
    for name, (words, do) in expected.items():
        assert words in found[name][0]["found"]
        assert do in found[name][0]["do"]


def test_doctor_of_a_closed_door_without_a_key(tmp_path: Path, redis_server) -> None:  # type: ignore[no-untyped-def]
    closed = {"NPT_REDIS_URL": redis_server.url, "NPT_HOST": "0.0.0.0", "NPT_PORT": "0", "NPT_REQUIRE_KEY": "true"}
    code, found = told(tmp_path, **closed)
    assert code == 0
    assert found["access"][0]["state"] == "warning"
    assert "npt keys create" in found["access"][0]["do"]
    assert npt("keys", "create", "--scope", "admin", NPT_DATA_DIR=str(tmp_path)).returncode == 0
    assert told(tmp_path, **closed)[1]["access"][0]["state"] == "ok"


def test_doctor_of_settings_that_cannot_be_read(tmp_path: Path) -> None:
    code, found = told(tmp_path, NPT_PORT="eighty")
    assert code == 1
    assert "NPT_PORT" in found["settings"][0]["found"]
    assert ".env.example" in found["settings"][0]["do"]
    assert "redis" not in found


def test_a_folder_that_takes_no_file() -> None:
    """Being root says nothing of what a file system takes."""
    (check,) = checks.data_folder(AppSettings(data_dir=Path("/proc/nowhere")))
    assert check.state == "problem"
    assert "cannot be written to" in check.found
    assert "NPT_DATA_DIR" in check.do


def test_weights_that_are_not_here(tmp_path: Path) -> None:
    (check,) = checks.weights(AppSettings(data_dir=tmp_path, backbone="RN50/openai"), "RN50/openai", load=True)
    assert check.state == "problem"
    assert "RN50/openai" in check.found
    assert "not on this machine" in check.found
    assert check.do == "Download them once: npt prefetch RN50/openai"


def test_versions_that_do_not_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.12.1+cu130", "torchvision": "0.26.0+cu130"}
    monkeypatch.setattr(checks.metadata, "version", lambda name: versions[name])
    (check,) = checks.packages()
    assert check.state == "problem"
    assert "torchvision 0.27" in check.do
    versions["torchvision"] = "0.27.1+cpu"
    (check,) = checks.packages()
    assert check.state == "problem"
    assert "(cu130)" in check.do


def test_prefetch_loads_and_describes(tmp_path: Path) -> None:
    done = npt("prefetch", "demo", "--json", NPT_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["name"], facts["knows_photographs"]) == ("demo", False)
    tiny, _ = write_towers(tmp_path)
    other = npt("prefetch", tiny, NPT_DATA_DIR=str(tmp_path))
    assert other.returncode in (1, 2)  # open_clip of that process does not know the architecture
    assert "Traceback" not in other.stderr


def test_prefetch_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    offline = {"NPT_DATA_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = npt("prefetch", "ViT-B-16/laion2b_s34b_b88k", **offline)
    assert done.returncode == 1
    assert "are not on this machine and could not be downloaded" in done.stderr
    assert "Connect this machine once, or copy the folder" in done.stderr
    wrong = npt("prefetch", "ViT-B-16/laion2b_s34b_b88", **offline)
    assert wrong.returncode == 2
    assert "Did you mean ViT-B-16/laion2b_s34b_b88k" in wrong.stderr
    assert npt("prefetch", "nonsense", **offline).returncode == 2
