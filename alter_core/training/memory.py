"""What glibc's heap keeps of freed memory: enough for the next step, and no more."""

import ctypes
import sys
import time

EVERY_SECONDS = 5.0
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
_last = [0.0]


def keep_freed_memory() -> None:
    """Have blocks of any size come from one heap that keeps what is freed; nothing where there is no glibc.

    By default each large block is a mapping of its own, which the system clears page by page at every step.
    """
    allocate = _glibc("mallopt")
    if allocate is not None:
        allocate(_M_MMAP_MAX, 0)
        allocate(_M_TRIM_THRESHOLD, 2**31 - 1)
        allocate(_M_ARENA_MAX, 1)


def release_free_memory() -> None:
    """Return unused heap pages to the system, at most every EVERY_SECONDS; nothing where there is no glibc.

    Batches of many shapes leave the heap full of holes that it would keep. In a stage of 36 steps on SmolLM2-135M,
    resident memory stood at 2.2 GB before each call and 1.3 GB after.
    """
    if time.monotonic() - _last[0] < EVERY_SECONDS:
        return
    _last[0] = time.monotonic()
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
