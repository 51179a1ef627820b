"""How a command line ends: an error that a person can mend becomes a message and an exit code; a defect keeps its
traceback.
"""

import errno
import signal
import sys
from collections.abc import Collection
from typing import NoReturn

import typer

from flows.exit_codes import STOPPED, TERMINATED, WRONG

_ALLOW = "let this user write there, or name another place"
_SPACE = "free some space (`alter gc` shows what may go), or name a place on a larger disk"
_ADVICE = {
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: _ALLOW,
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
}


def explained(error: Exception) -> tuple[str, int] | None:
    """Message and exit code of an error that a person can mend; None for a defect."""
    if isinstance(code := getattr(error, "exit_code", None), int):
        return str(error), code
    if isinstance(error, OSError) and (advice := _ADVICE.get(error.errno or 0)):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; {advice} (ALTER_HOME names the workspace)", WRONG
    return None


def run(app: typer.Typer, resumed: Collection[str] = ()) -> NoReturn:
    """Run a command line to its exit. resumed: the commands that go on where they were when they are given again."""
    # Python's own answer to SIGTERM ends the process without its exit handlers, and Prefect stops its server in one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
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
        if (known := explained(error)) is None:
            raise
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
