"""What the exit codes of `alter` mean: one table, which its commands, its help and the reference read.

Errors bring theirs along: `exit_code` of alter_core.errors and registry.errors is FAILED or WRONG.
"""

from collections.abc import Mapping
from types import MappingProxyType

from alter_core.job import TERMINATED

FAILED, WRONG = 1, 2
STOPPED = 130  # 128 and the signal's number, as shells give it
DATA_WARNED, DATA_BLOCKED = 1, 3

OF_ALTER: Mapping[int, str] = MappingProxyType(
    {
        0: "done",
        FAILED: "a run or job failed",
        WRONG: "wrong input or data",
        STOPPED: "stopped by hand",
        TERMINATED: "stopped by SIGTERM",
    }
)
OF_DATA: Mapping[int, str] = MappingProxyType(
    {0: "fine", DATA_WARNED: "warnings", WRONG: "wrong input", DATA_BLOCKED: "blocked by a check"}
)
OF_SEVERAL = "0 when all ended well, otherwise that of the failures where they agree, else 1"


def listed(meanings: Mapping[int, str]) -> str:
    """A table of codes as one line."""
    return ", ".join(f"{code} {meaning}" for code, meaning in meanings.items())
