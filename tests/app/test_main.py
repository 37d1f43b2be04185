"""What `python -m app` says and returns when it cannot start. In this process: nothing is started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.__main__ import main
from app.server import check_backbones
from npt_core.errors import UnknownBackboneError


@pytest.mark.usefixtures("logging_left_alone")
@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"NPT_PORT": "eighty"}, 2, "NPT_PORT: Input should be a valid integer"),
        ({"NPT_PORT": "70000", "NPT_LEASE_TTL_S": "-1"}, 2, "NPT_LEASE_TTL_S"),
        ({"NPT_HOST": "0.0.0.0"}, 2, "NPT_API_KEYS"),
        ({"NPT_HOST": "203.0.113.7", "NPT_API_KEYS": "k" * 32}, 1, "NPT_HOST"),
        ({"NPT_REDIS_URL": "http://nowhere"}, 2, "NPT_REDIS_URL"),
        ({"NPT_ROLE": "api", "NPT_BACKBONE": "no-such-backbone"}, 2, "Backbone 'no-such-backbone' cannot be read"),
    ],
)
def test_wrong_settings_are_named(
    settings: dict[str, str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["app"])
    for name, value in ({"NPT_PORT": "0", "NPT_DATA_DIR": str(tmp_path / "data")} | settings).items():
        monkeypatch.setenv(name, value)
    assert main() == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_backbones_are_checked_by_form() -> None:
    check_backbones(["demo", "ViT-B-16/laion2b_s34b_b88k", "hf-hub:some/where"])
    with pytest.raises(UnknownBackboneError, match="nonsense"):
        check_backbones(["demo", "nonsense"])
