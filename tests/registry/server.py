"""An MLflow command that serves: `mlflow server` or `mlflow models serve`, as a process on loopback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.flows.server import free_port

SECONDS = 120.0  # far above what a start takes: a busy machine is no failure


def environment(**more: str) -> dict[str, str]:
    """That of a shell in which the environment is active: `models serve` calls uvicorn by its name."""
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "PATH": binaries, **more}


@contextmanager
def serving(folder: Path, health: str, *arguments: str, **more: str) -> Iterator[str]:
    """`mlflow ARGUMENTS` in `folder`, which is no checkout; its address, once `health` of it answers.

    more: of the environment.
    """
    port = free_port()
    log = folder / "log.txt"
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env=environment(**more),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + SECONDS
        while not _answers(f"{address}{health}"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, f"no answer in {SECONDS:.0f} s:\n{log.read_text()}"
            time.sleep(0.1)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False
