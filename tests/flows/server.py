"""A real Prefect server and a real process worker on loopback, each a process of its own, in a temporary folder."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from registry.models import ModelStore

Found = TypeVar("Found")
SECONDS = 600.0  # far above what anything takes: a busy machine is no failure


@dataclass(frozen=True)
class Factory:
    """A folder with a server's address and the environment of everything that is started there."""

    home: Path
    url: str
    environment: dict[str, str]
    told: list[str] = field(default_factory=list)
    """What notifications said."""

    def alter(
        self, *arguments: str, stdin: str | None = None, own_server: bool = False, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command line in a process of its own; own_server: as on a machine where no server is set up."""
        environment = {**self.environment, **more}
        if own_server:
            del environment["PREFECT_API_URL"]
        return subprocess.run(
            [sys.executable, "-c", "from flows.cli.app import main; main()", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.home,
            env=environment,
        )

    def copied(self, home: Path) -> "Factory":
        """A copy of the workspace and the domains at the same server: what happens to it happens to nothing else."""
        shutil.copytree(self.home, home, ignore=shutil.ignore_patterns("prefect*"), dirs_exist_ok=True)
        return Factory(home, self.url, {**self.environment, "ALTER_HOME": str(home / "alter")})

    @property
    def store(self) -> ModelStore:
        """The workspace's registry, which its first run has made."""
        return ModelStore(f"sqlite:///{self.home}/alter/mlflow/mlflow.db")

    def start(self, *command: str, **more: str) -> "subprocess.Popen[bytes]":
        """Start a Python module; its output goes to a file named after it."""
        with (self.home / f"{command[0]}-{command[1]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env={**self.environment, **more},
                start_new_session=True,
            )

    def jobs(self) -> list[psutil.Process]:
        """Training and evaluation processes that work in this folder."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any(word.startswith(str(self.home)) and word.endswith("/job.json") for word in words):
                found.append(process)
        return found


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def alone(home: Path, url: str) -> Factory:
    """A folder whose commands talk to the server at `url`, which somebody else starts."""
    environment = {
        **os.environ,
        "ALTER_HOME": str(home / "alter"),
        "ALTER_CHECKPOINT_SECONDS": "0.5",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()]),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }
    (home / "prefect").mkdir()
    return Factory(home, url, environment)


@contextmanager
def factory(home: Path) -> Iterator[Factory]:
    """A server on a free port, stopped at the end with all that was started beside it."""
    port = free_port()
    made = alone(home, f"http://127.0.0.1:{port}/api")
    server = made.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    try:
        wait_for(lambda: _answers(made.url), "the server answers")
        yield made
    finally:
        end(server)
        for job in made.jobs():
            job.kill()


@contextmanager
def listener(told: list[str]) -> Iterator[str]:
    """An HTTP server that keeps what is posted to it; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: the test looks at what was told."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def end(process: "subprocess.Popen[bytes]", how: int = signal.SIGTERM) -> None:
    """End a process and its children, and wait for it."""
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(children, 10)
        for child in alive:
            child.kill()


def wait_for(found: Callable[[], Found], what: str, seconds: float = SECONDS) -> Found:
    """The first true value; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:.0f} s in vain until {what}")


def _answers(url: str) -> Any:
    try:
        with urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False
