"""Readers of strangers' files under coverage-guided fuzzing; and every input that was ever kept, once more.

The seconds of each target: NPT_FUZZ_S, 20 by default; `make fuzz` gives them ten minutes. Where atheris has no wheel
the seeds alone are replayed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.fuzz.targets import TARGETS
from tests.support.service import ROOT

SEEDS = Path(__file__).parent / "fuzz" / "seeds"
SECONDS = int(os.environ.get("NPT_FUZZ_S", "20"))
START_S = 120
MEMORY_MIB = 2048
SLOW_S = 20
"""Longer than this, one input is a finding of its own."""


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_is_answered(target: str) -> None:
    seeds = sorted((SEEDS / target).iterdir())
    assert seeds, f"no seed of {target}: python -m tests.security.fuzz.make_seeds"
    for seed in seeds:
        TARGETS[target](seed.read_bytes())


@pytest.mark.parametrize("data", [b"", b"\0", b"PK\x03\x04", b"\xff" * 100, bytes(5000)])
@pytest.mark.parametrize("target", TARGETS)
def test_bytes_without_any_form_are_answered(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + START_S + 60)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_raise_what_no_sender_may_be_told(target: str, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    options = [
        f"-max_total_time={SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-timeout={SLOW_S}",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.security.fuzz", target, str(tmp_path / "found"), *options]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=SECONDS + START_S, check=False
    )
    crashes = {path.name: path.read_bytes()[:500] for path in tmp_path.glob("*-*") if path.is_file()}
    assert done.returncode == 0, f"{crashes}\n{done.stderr[-4000:]}"
    assert "stat::number_of_executed_units" in done.stderr
