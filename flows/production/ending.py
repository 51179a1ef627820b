"""How a command line ends: an error that a person can mend becomes a message and an exit code; a defect keeps its
traceback.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Collection
from threading import Event
from typing import NoReturn

import typer

from alter_core.job import TERMINATED
from flows.production.exit_codes import STOPPED, WRONG

_ALLOW = "let this user read and write there, or name another place"
_SPACE = "free some space (`alter gc` shows what may go), or name a place on a larger disk"
_ADVICE = {
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: _ALLOW,
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOTDIR: "a part of this path is a file; name another place",
    errno.EISDIR: "name a file, or move this folder away",
    errno.ELOOP: "a link in this path leads back to itself; remove it, or name another place",
}


_TERMINATED = Event()


def is_of_sigterm(error: BaseException) -> bool:
    """Whether the process was on its way out when this error came: a server in its process group ends at once, and
    whatever talks to it then fails.

    While a flow runs, Prefect answers the signal itself, by an exception that knows it.
    """
    behind: list[BaseException | None] = [error]
    seen: set[BaseException] = set()
    while behind:
        if (one := behind.pop()) is None or one in seen:
            continue
        if getattr(one, "signal", None) == signal.SIGTERM:
            return True
        seen.add(one)
        behind += [one.__cause__, one.__context__]
    return _TERMINATED.is_set()


def explained(error: Exception) -> tuple[str, int] | None:
    """Message and exit code of an error that a person can mend; None for a defect."""
    if isinstance(code := getattr(error, "exit_code", None), int):
        return str(error), code
    number, place = 0, ""
    if isinstance(error, OSError):
        number, place = error.errno or 0, f"{error.filename}: " if error.filename else ""
    elif found := re.search(r"\(os error (\d+)\)", str(error)):  # of a library in Rust: safetensors, tokenizers
        number = int(found[1])
    if advice := _ADVICE.get(number):
        return f"{place}{os.strerror(number)}; {advice} (ALTER_HOME names the workspace)", WRONG
    return None


def _terminate(*_: object) -> NoReturn:
    _TERMINATED.set()
    sys.exit(TERMINATED)


def run(app: typer.Typer, resumed: Collection[str] = ()) -> NoReturn:
    """Run a command line to its exit. resumed: the commands that go on where they were when they are given again."""
    # Python's own answer to SIGTERM ends the process without its exit handlers, and Prefect stops its server in one.
    _TERMINATED.clear()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = app(standalone_mode=False)
    except KeyboardInterrupt:
        result = STOPPED
    except SystemExit as end:
        if end.code != TERMINATED:
            raise
        result = TERMINATED
    except Exception as error:
        if hasattr(error, "show"):  # click's own: wrong usage
            error.show()
            sys.exit(getattr(error, "exit_code", WRONG))
        if is_of_sigterm(error):
            result = TERMINATED
        elif (known := explained(error)) is None:
            raise
        else:
            message, result = known
            typer.echo(f"error: {message}", err=True)
            sys.exit(result)
    if result in (STOPPED, TERMINATED):
        by = " by SIGTERM" if result == TERMINATED else ""
        goes_on = (
            "; the same command goes on from the last checkpoint" if sys.argv[1:2] and sys.argv[1] in resumed else ""
        )
        typer.echo(f"\nstopped{by}{goes_on}", err=True)
    sys.exit(result if isinstance(result, int) else 0)
