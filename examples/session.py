"""Record a terminal session: start a service, run each command for real, print what was typed and what came back.

    .venv/bin/python examples/session.py > session.txt

The session in README.md was made with it. Nothing is left behind.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from demo import HERE, running_service

COMMANDS = (
    "npt tune digits/ --name digits --method linear_probe --wait --alias champion",
    "npt predict champion holdout/7/0007.png holdout/5/1182.png --top-k 2",
    "npt predict zero-shot holdout/7/0007.png --label seven --label star --label circle",
    "npt models list",
    "npt export champion --output digits-model.zip",
    "npt predict ./digits-model.zip holdout/7/0007.png --top-k 1 --json",
    "npt tune digits/ --local --method zero_shot --output plain",
    "npt verify",
)


def main() -> int:
    """Run the session; the exit code of the first command that failed, or 0."""
    with running_service() as (url, data), tempfile.TemporaryDirectory(prefix="npt-session-") as here:
        for name, folder in (("digits.zip", "digits"), ("digits_holdout.zip", "holdout")):
            with zipfile.ZipFile(HERE / name) as archive:
                archive.extractall(Path(here) / folder)  # noqa: S202 - our own file
        env = os.environ | {"NPT_URL": url, "NPT_DATA_DIR": str(data), "PYTHONPATH": str(HERE.parent)}
        for command in COMMANDS:
            print(f"$ {command}", flush=True)
            words = [sys.executable, "-m", "app", *shlex.split(command)[1:]]
            done = subprocess.run(words, cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            print(re.sub(r" +$", "", done.stdout, flags=re.MULTILINE), flush=True)
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
