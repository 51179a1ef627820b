"""Rare looks for garbage: they still come, and the end of a process leaves nothing out."""

import subprocess
import sys

PROGRAM = """
import atexit, weakref
from alter_core.collector import ALLOCATIONS, collect_rarely

class Ring:
    def __init__(self):
        self.own = self

atexit.register(print, "handler")
collect_rarely()
rings = [weakref.ref(Ring()) for _ in range(3 * ALLOCATIONS)]
print(any(ring() is None for ring in rings))
"""


def test_what_is_in_a_cycle_is_found_in_time_and_exit_handlers_run() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "handler"]
