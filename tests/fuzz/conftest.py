"""How long the fuzz tests search: a few fixed examples in `make test`, ALTER_FUZZ=10000 random ones when asked to."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hypothesis import HealthCheck, Phase, settings

HANG_SECONDS = 120  # far above what an example takes on a busy machine
ALWAYS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}

settings.register_profile("few", max_examples=60, derandomize=True, database=None, **ALWAYS)
settings.register_profile(
    "many", max_examples=int(os.environ.get("ALTER_FUZZ", "10000")), phases=set(Phase) - {Phase.explain}, **ALWAYS
)
settings.load_profile("many" if "ALTER_FUZZ" in os.environ else "few")


class Hung(Exception):
    """An example did not come back."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Ends an example that does not come back by itself, which would otherwise stop the whole run without a word."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Hung(f"no answer within {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
