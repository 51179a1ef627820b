"""The process manager of a stack on this machine: supervisord, which restarts what dies."""

import configparser
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from alter_core.errors import AlterError
from stack.passwords import write_private
from stack.place import Place
from stack.programs import MARK, Program, base_environment

START_SECONDS = 30.0
LOG_END = 1500  # characters of a log that a message shows
STOP_SECONDS = 90.0  # above the longest patience of a program


def write_settings(place: Place, found: Sequence[Program]) -> Path:
    """supervisord's settings; they hold passwords, so only their owner may read them. Programs start when asked to."""
    settings = configparser.RawConfigParser()
    settings["unix_http_server"] = {"file": str(place.socket), "chmod": "0700"}
    settings["supervisord"] = {
        "logfile": str(place.logs / "supervisord.log"),
        "childlogdir": str(place.logs),
        "pidfile": str(place.folder / "supervisord.pid"),
        "directory": str(place.folder),
        "umask": "077",
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    settings["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    for program in found:
        settings[f"program:{program.name}"] = {
            "command": " ".join(map(_quoted, program.command)),
            "environment": ",".join(f"{name}={_quoted(value)}" for name, value in program.environment.items()),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": "3",
            "startretries": "20",  # with a growing pause: minutes, while a database is away
            "stopsignal": program.stop,
            "stopwaitsecs": str(program.patience),
            "stopasgroup": "false",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(place.logs / f"{program.name}.log"),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "2",
            **({"user": program.user} if program.user else {}),
        }
    file = place.folder / "supervisord.conf"
    text = StringIO()
    settings.write(text)
    write_private(file, text.getvalue())
    return file


def start_manager(place: Place, found: Sequence[Program]) -> None:
    """Start supervisord in the background. Raises AlterError with what it says when it does not come up."""
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(write_settings(place, found))]
    done = subprocess.run(command, env=base_environment(place), capture_output=True, text=True, cwd="/")
    if done.returncode:
        reason = (done.stderr or done.stdout).strip() or "it does not say why"
        raise AlterError(f"the process manager did not start; its log is {place.logs / 'supervisord.log'}:\n{reason}")
    deadline = time.monotonic() + START_SECONDS
    while not is_up(place):
        if time.monotonic() > deadline:
            raise AlterError(
                f"the process manager gave no answer within {START_SECONDS:.0f} s; its log is "
                f"{place.logs / 'supervisord.log'}; `make down-local` clears up before another try"
            )
        time.sleep(0.1)


def is_up(place: Place) -> bool:
    """Whether the stack's process manager answers."""
    try:
        with control(place) as asked:
            return bool(asked.getState())
    except OSError:
        return False
    except Fault:
        return True  # it is on its way out, and its programs with it


@contextmanager
def control(place: Place) -> Iterator[Any]:
    """supervisord's own interface, such as `startProcess(name)`. Raises OSError when it does not run."""
    with ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{place.socket}")) as proxy:
        yield proxy.supervisor


def start(place: Place, name: str) -> None:
    """Start a program, and return once it has lived for some seconds. Raises AlterError with the end of its log."""
    try:
        with control(place) as asked:
            asked.startProcess(name)
    except Fault as fault:
        raise AlterError(f"{name} did not start ({fault.faultString}): {log_end(place, name)}") from None


def process_ids(place: Place) -> dict[str, int]:
    """Process id of each program that runs now, by name."""
    with control(place) as asked:
        return {row["name"]: int(row["pid"]) for row in asked.getAllProcessInfo() if row["pid"]}


def states(place: Place) -> dict[str, str]:
    """RUNNING, STARTING, BACKOFF, STOPPED, FATAL ... by program."""
    with control(place) as asked:
        return {row["name"]: str(row["statename"]) for row in asked.getAllProcessInfo()}


def stop_manager(place: Place) -> list[int]:
    """Stop every program and supervisord, then whatever they left running; the ids of those that had to be killed."""
    if is_up(place):
        with control(place) as asked:
            for name in [name for name in process_ids(place) if name.startswith("worker")]:
                asked.stopProcess(name)  # first: they still report the end of their runs
            asked.shutdown()
        deadline = time.monotonic() + STOP_SECONDS
        while is_up(place) and time.monotonic() < deadline:
            time.sleep(0.2)
    left = members(place)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(left, 20)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, 10)
    return [process.pid for process in alive]


def members(place: Place) -> list[psutil.Process]:
    """Every living process of the stack, those that workers started included: they carry its mark."""
    found = []
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(MARK) == str(place.folder) and process.pid != os.getpid():
            found.append(process)
    return found


def log_end(place: Place, name: str) -> str:
    """What a program said last, for a message."""
    file = place.logs / f"{name}.log"
    text = file.read_text(encoding="utf-8", errors="replace")[-LOG_END:].strip() if file.exists() else ""
    return f"the end of {file} is:\n{text}" if text else f"{file} is empty"


def _quoted(value: str) -> str:
    """A word of supervisord's settings, where % begins an expansion."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
