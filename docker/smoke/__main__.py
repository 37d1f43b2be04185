"""Runs the steps and prints their table; see docker/smoke.sh."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bases import NO_ENGINE, base_images
from compose import Deployment, compose_command
from outcome import LeftOut, NoEngine, SmokeError, Table, record
from stage import Stage, earlier_version
from steps import STEPS

ALWAYS = ("images", "start", "first key", "tune", "predict", "down")
"""What the others go on from."""
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="docker/smoke.sh", description="Try the Compose deployment out; see its header."
    )
    parser.add_argument("--only", metavar="STEP,STEP", help=f"besides {', '.join(ALWAYS)}")
    parser.add_argument("--list", action="store_true", help="names of the steps")
    return parser.parse_args()


def main() -> int:
    """Exit code: 0 where every step is as it has to be, 3 where there can be no engine."""
    asked = arguments()
    if asked.list:
        print("\n".join(STEPS))
        return 0
    wanted = set(asked.only.split(",")) if asked.only else set(STEPS)
    if unknown := wanted - set(STEPS):
        print(f"smoke: there is no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, end)
    code, started, table = 130, time.monotonic(), Table()
    with tempfile.TemporaryDirectory(prefix="npt-smoke-") as folder:
        stages: list[Stage] = []
        try:
            code = perform(Path(folder), wanted, table, stages)
        except KeyboardInterrupt:
            print("smoke: interrupted", file=sys.stderr)
        finally:
            # An end that is asked for again must not cut this short: what is left would run for ever.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            take_down(stages)
    if code == 0:
        print(f"\n{table}\n\nin all {time.monotonic() - started:.0f} s\nsmoke: ok")
    return code


def perform(folder: Path, wanted: set[str], table: Table, stages: list[Stage]) -> int:
    """All steps that are wanted.

    Args:
        folder: Scratch.
        wanted: Names of steps.
        table: What was seen goes into it.
        stages: The stage goes into it once there is one, to be taken down however this ends.

    Returns:
        Exit code: 0, 1 where something is not as it has to be, 3 where there can be no engine.
    """
    step = "before the first step"
    try:
        bases = base_images(REPOSITORY)
        command = compose_command()
        within_s = float(os.environ.get("SMOKE_WITHIN", "300"))
        previous = os.environ.get("SMOKE_PREVIOUS") or earlier_version(REPOSITORY)
        stage = Stage(REPOSITORY, folder, command, within_s, previous, bases)
        stages.append(stage)
        print(f"smoke: {' '.join(command)}, port {stage.port}", flush=True)
        for step, do in STEPS.items():  # noqa: B007 - named when it fails
            if step in wanted or step in ALWAYS:
                run_one(table, step, lambda do=do: do(stage))
    except (SmokeError, OSError, ValueError, KeyError, LookupError) as error:
        words = str(error) if isinstance(error, SmokeError) else f"{type(error).__name__}: {error}"
        # First of all: the logs take a while, and so does the cleaning up.
        record(f"failed at {step}: {words}")
        print(f"\n{table}\n\nsmoke: failed at {step}: {words}", file=sys.stderr, flush=True)
        show_logs(stages)
        print(f"\nsmoke: failed at {step}, as is said above the logs", file=sys.stderr)
        return 1
    except NoEngine as reason:
        print(f"smoke: {reason}", file=sys.stderr)
        return NO_ENGINE
    return 0


def end(*_: object) -> None:
    """On SIGTERM, as on Ctrl-C. Once: `timeout` sends it twice, and what stands is being taken down by then."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def run_one(table: Table, step: str, do) -> None:  # type: ignore[no-untyped-def]
    """One step into the table."""
    started = time.monotonic()
    try:
        seen = do()
    except LeftOut as reason:
        seen = f"left out: {reason}"
    table.add(step, time.monotonic() - started, seen)


def show_logs(stages: list[Stage]) -> None:
    """The last lines of every container, for whoever has to find out."""
    for deployment in started(stages):
        with contextlib.suppress(SmokeError):
            print("\n".join(deployment.logs().splitlines()[-60:]), file=sys.stderr)


def take_down(stages: list[Stage]) -> None:
    """Nothing of ours stays, however it ended; what does is said."""
    for deployment in started(stages):
        try:
            # A session of its own: `timeout` and Ctrl-C signal the whole group, and Compose would heed that.
            deployment.compose("down", "--remove-orphans", "--volumes", start_new_session=True)
        except (SmokeError, OSError) as error:
            print(f"smoke: {deployment.project} cannot be taken down: {error}", file=sys.stderr)


def started(stages: list[Stage]) -> list[Deployment]:
    return [deployment for stage in stages for deployment in stage.started]


if __name__ == "__main__":
    sys.exit(main())
