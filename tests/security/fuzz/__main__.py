"""Coverage-guided fuzzing of one target.

    python -m tests.security.fuzz TARGET FOLDER [options of libFuzzer: -max_total_time=60, -runs=1000, ...]

FOLDER receives what was found on the way; the seeds beside this file are read too. An input that raises what no sender
may be told is written to `crash-*` in the working folder, or where `-artifact_prefix` says, and the exit code is not 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

SEEDS = Path(__file__).parent / "seeds"


def main() -> None:
    """Fuzz until the options say that it is enough; does not return."""
    target, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(
        include=["npt_core.data", "npt_core.bundle", "npt_core.artefact", "npt_core.tensorfile"]
    ):
        from tests.security.fuzz.targets import TARGETS
    arguments = [sys.argv[0], folder, str(SEEDS / target), *options]
    atheris.Setup(arguments, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
