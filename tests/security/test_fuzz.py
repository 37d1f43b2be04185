"""Readers of strangers' files under coverage-guided fuzzing; and every input that was ever kept, once more.

In the suite the fuzzer makes the same inputs in every run, so many and no more: what fails once fails again, on a busy
machine too. With NPT_FUZZ_S, which `make fuzz` sets, it makes new ones for so many seconds. What it finds it writes to
the seeds, and whatever is there is replayed. Where atheris has no wheel the seeds alone are.
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
SECONDS = int(os.environ.get("NPT_FUZZ_S", "0"))
"""Of fuzzing for each target; 0: `RUNS` inputs."""
RUNS = {
    "archive": 8_000,
    "bundle": 15_000,
    "layout": 60_000,
    "manifest": 300_000,
    "picture": 50_000,
    "recipe": 5_000,
    "table": 80_000,
    "tensors": 20_000,
}
"""What takes about five seconds each where nothing else runs."""
REST_S = 900
"""For the start of the process, for all of `RUNS`, and for the last input: on the slowest machine."""
MEMORY_MIB = 2048
SLOW_S = 20
"""Longer than this, one input is a finding of its own; where time is not what is looked for, `REST_S` is."""


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
@pytest.mark.timeout(SECONDS + REST_S + 60)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_raise_what_no_sender_may_be_told(target: str, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    before = set((SEEDS / target).iterdir())
    done = _fuzz(target, tmp_path, SEEDS / target)
    crashes = {path.name: path.read_bytes()[:500] for path in set((SEEDS / target).iterdir()) - before}
    assert done.returncode == 0, f"{crashes}\n{done.stderr[-4000:]}"
    assert "stat::number_of_executed_units" in done.stderr


def _fuzz(target: str, folder: Path, kept: Path) -> subprocess.CompletedProcess[str]:
    """Fuzz in `folder`; an input that must not be goes to `kept`."""
    limits = (
        [f"-max_total_time={SECONDS}", f"-timeout={SLOW_S}", f"-report_slow_units={SLOW_S}"]
        if SECONDS
        else [f"-runs={RUNS[target]}", "-seed=1", f"-timeout={REST_S}", f"-report_slow_units={REST_S}"]
    )
    options = [*limits, f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={kept}/", "-print_final_stats=1"]
    command = [sys.executable, "-m", "tests.security.fuzz", target, str(folder / "found"), *options]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    # Linux counts the peak of whoever started a program as the program's own, and libFuzzer believes it; after the rest
    # of the suite this process is larger than the limit. A shell between them is small.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS + REST_S, check=False
    )
