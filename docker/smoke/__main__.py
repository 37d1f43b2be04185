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
from compose import compose_command
from outcome import LeftOut, NoEngine, SmokeError, Table
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
    table, step, started = Table(), "before the first step", time.monotonic()
    with tempfile.TemporaryDirectory(prefix="npt-smoke-") as folder:
        stage = None
        try:
            bases = base_images(REPOSITORY)
            command = compose_command()
            within_s = float(os.environ.get("SMOKE_WITHIN", "300"))
            previous = os.environ.get("SMOKE_PREVIOUS") or earlier_version(REPOSITORY)
            stage = Stage(REPOSITORY, Path(folder), command, within_s, previous, bases)
            print(f"smoke: {' '.join(command)}, port {stage.port}", flush=True)
            for step, do in STEPS.items():  # noqa: B007 - named when it fails
                if step in wanted or step in ALWAYS:
                    run_one(table, step, lambda do=do: do(stage))
        except (SmokeError, OSError, ValueError, KeyError, LookupError) as error:
            words = str(error) if isinstance(error, SmokeError) else f"{type(error).__name__}: {error}"
            show_logs(stage)
            print(f"\n{table}\n\nsmoke: failed at {step}: {words}", file=sys.stderr)
            return 1
        except NoEngine as reason:
            print(f"smoke: {reason}", file=sys.stderr)
            return NO_ENGINE
        except KeyboardInterrupt:
            print("smoke: interrupted", file=sys.stderr)
            return 130
        finally:
            take_down(stage)
    print(f"\n{table}\n\nin all {time.monotonic() - started:.0f} s\nsmoke: ok")
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


def show_logs(stage: Stage | None) -> None:
    """The last lines of every container, for whoever has to find out."""
    for deployment in stage.started if stage else []:
        with contextlib.suppress(SmokeError):
            print("\n".join(deployment.logs().splitlines()[-60:]), file=sys.stderr)


def take_down(stage: Stage | None) -> None:
    """Nothing of ours stays, however it ended."""
    for deployment in stage.started if stage else []:
        with contextlib.suppress(SmokeError):
            deployment.down("--volumes")


if __name__ == "__main__":
    sys.exit(main())
