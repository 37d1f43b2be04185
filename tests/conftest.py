"""Property tests draw the same examples in every run; with NPT_EXPLORE=1 new ones."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

TIMED = [HealthCheck.too_slow]  # says how busy the machine is, not how good the test; so would a deadline

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=TIMED)
settings.register_profile("explore", print_blob=True, deadline=None, suppress_health_check=TIMED)
settings.load_profile("explore" if os.environ.get("NPT_EXPLORE") else "same")

# A shell's background job is started with Ctrl-C ignored, and every process that a test starts would be, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
