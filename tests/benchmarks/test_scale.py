"""benchmarks/scale.py on tiny numbers: the same processes, the same requests, another depth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.scaling import pace
from benchmarks.scaling.costs import decode_ms, told_footprint

VERDICT = re.compile(r"^(?:PASS|FAIL)  (.+?)(?::| bring) ", re.MULTILINE)


def test_one_more_costs_what_it_added_and_what_stayed_costs_its_share() -> None:
    told = list(
        told_footprint({"a job": (10, 1_000), "an image": (4, 80)}, {"a job": (30, 5_000), "an image": (4, 80)})
    )
    assert told == ["A job: 200 bytes.", "An image: 20 bytes."]


def test_larger_pictures_take_longer_to_decode() -> None:
    took = [ms for _, ms in decode_ms(repeats=3)]
    assert len(took) == 3
    assert 0 < took[0] < took[2]  # 60 times the pixels


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_depth_is_measured_on_a_folder_that_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "BACKLOG_S", 1.0)
    data = tmp_path / "full"
    assert scale.main(["--only", "fill", "--data", str(data), "--depth", "9"]) == 0
    assert len(list((data / "models").iterdir())) == len(list((data / "datasets").iterdir())) == 9
    scale.main(["--only", "depth", "--data", str(data), "--depth", "12", "--few", "4", "--requests", "2"])
    out = capsys.readouterr().out
    judged = VERDICT.findall(out)
    assert {"GET /jobs", "GET /models?cursor=", "API started, Redis had lost everything"} <= set(judged)
    assert "| POST /tune |" in out
    assert "| DELETE /datasets/{id} |" in out
    assert re.search(r"One worker with \d+ queued: \d+ jobs a minute", out)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_a_minute_are_compared_with_plain_processes(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--only", "throughput", "--jobs", "2", "--rounds", "1"])
    out = capsys.readouterr().out
    rows = re.findall(r"^\| (workers|plain processes, no service) \| (\d+) \| (\d+) \| ([\d.]+) \|$", out, re.MULTILINE)
    assert [name for name, *_ in rows] == ["workers", "plain processes, no service"]
    assert all(int(one) > 0 and int(two) > 0 for _, one, two, _ in rows)
    assert re.search(r"One job: \d+ commands to Redis", out)
    assert VERDICT.search(out)
