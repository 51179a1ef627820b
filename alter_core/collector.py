"""Python's garbage collector, where torch, MLflow or Prefect are imported: a million objects that stay to the end."""

import atexit
import gc

ALLOCATIONS = 10_000


def collect_rarely() -> None:
    """Look for garbage once in so many allocations, not in 700, and not when the process ends.

    Half of the time of such imports goes into looking through what they made, again and again, and a second or more at
    the end. What is in no cycle is freed at once as ever.
    """
    gc.set_threshold(ALLOCATIONS)
    atexit.register(gc.freeze)  # what is frozen is not looked through; exit handlers all run
