"""What killed runs leave behind is told from what still works."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.abandoned import orphaned_servers, workspace_tag
from flows.production.plan import Plan
from tests.conftest import tiny_spec, write_domain

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
    finally:
        in_use.kill()
        in_use.wait()


def test_runs_of_another_workspace_have_another_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(write_domain(tmp_path / "tiny", tiny_spec(tmp_path)))
    tags = []
    for home in ("here", "here", "there"):
        monkeypatch.setenv("ALTER_HOME", str(tmp_path / home))
        tags.append(workspace_tag(Plan.read(file)))
    assert tags[0] == tags[1] != tags[2]
