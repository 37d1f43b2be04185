"""`python -m app`: the command line, see `app.cli`; without a command, the service."""

from __future__ import annotations

import sys

from app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
