"""`python -m tests.support.faulty_api`: the real API process (NPT_ROLE=api), with gates around it."""

from __future__ import annotations

import sys

from tests.support import faulty

faulty.install()
faulty.hold_predictions()

from app.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
