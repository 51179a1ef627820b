"""Prefect servers that outlived the run they were started for. Found without Prefect, which takes seconds to import."""

import os
from collections.abc import Iterator

import psutil


def stop_orphaned_servers() -> list[str]:
    """Kill them; a line for each."""
    lines = []
    for server in orphaned_servers():
        server.kill()
        lines.append(f"stopped the Prefect server (pid {server.pid}) of a run in this workspace that was killed")
    return lines


def orphaned_servers() -> Iterator[psutil.Process]:
    """Servers that Prefect started for one process alone, in this Prefect home, which outlived it.

    Prefect stops such a server when its process ends, but not when that is killed. A parent that still lives runs the
    same interpreter; whoever adopts orphans (init, systemd, a container's first process) does not.
    """
    for server in psutil.process_iter():
        try:
            environment = server.environ()
            ours = environment.get("PREFECT_HOME") == os.environ.get("PREFECT_HOME")
            if not (ours and environment.get("PREFECT__SERVER_EPHEMERAL") == "1" and "uvicorn" in server.cmdline()):
                continue
            if not _runs_in(server.parent(), server.exe()):
                yield server
        except psutil.Error:
            continue


def _runs_in(process: psutil.Process | None, interpreter: str) -> bool:
    try:
        return process is not None and process.exe() == interpreter
    except psutil.Error:  # another user's, so not one that started a server of ours
        return False
