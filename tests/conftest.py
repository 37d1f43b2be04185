"""Property tests draw the same examples in every run; with NPT_EXPLORE=1 new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMED = [HealthCheck.too_slow]  # says how busy the machine is, not how good the test; so would a deadline

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=TIMED)
settings.register_profile("explore", print_blob=True, deadline=None, suppress_health_check=TIMED)
settings.load_profile("explore" if os.environ.get("NPT_EXPLORE") else "same")
