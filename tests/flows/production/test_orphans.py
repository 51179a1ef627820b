"""Servers of killed runs are told from those that still serve, and stopped also by a run that has nothing to do."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.production.orphans import orphaned_servers, stop_orphaned_servers

SERVER = [sys.executable, "-c", "import time; time.sleep(120)", "uvicorn"]
START = f"""
import subprocess
print(subprocess.Popen({SERVER!r}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT__SERVER_EPHEMERAL", "1")
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def orphan(environment: dict[str, str]) -> int:
    """A server whose starter has ended."""
    ended = subprocess.run([sys.executable, "-c", START], env=environment, capture_output=True, text=True, check=True)
    return int(ended.stdout)


def test_a_server_that_outlived_its_run_is_found_and_others_are_not(home: Path, started: list[int]) -> None:
    environment = dict(os.environ)
    left = orphan(environment)
    started.append(left)
    started.append(orphan({**environment, "PREFECT_HOME": str(home / "another")}))
    started.append(orphan({**environment, "PREFECT__SERVER_EPHEMERAL": "0"}))
    in_use = subprocess.Popen(SERVER, env=environment)  # its parent, this process, lives
    try:
        time.sleep(0.5)
        assert [server.pid for server in orphaned_servers()] == [left]
        (told,) = stop_orphaned_servers()
        assert f"pid {left}" in told
        psutil.wait_procs([psutil.Process(left)] if psutil.pid_exists(left) else [], timeout=60)
        assert not list(orphaned_servers())
        assert in_use.poll() is None
    finally:
        in_use.kill()
        in_use.wait()
