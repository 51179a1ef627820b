"""Everything on one machine in one command: a Prefect server where none is named, and the deployments run here."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from alter_core.errors import WorkspaceError
from alter_core.process import stop_tree
from alter_core.workspace import Workspace

START_SECONDS = 120.0


@contextmanager
def own_server(workspace: Workspace, host: str, port: int) -> Iterator[str]:
    """A Prefect server with its database in the workspace, stopped at the end; gives its API URL.

    Raises WorkspaceError when the port is taken or the server does not come up.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise WorkspaceError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port, or set PREFECT_API_URL "
                "if a Prefect server is running there"
            ) from None
    log = workspace.home / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    url = f"http://{host}:{port}/api"
    with log.open("ab") as sink:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
        # A session of its own: Ctrl-C reaches this process alone, which stops the runner first and the server after.
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for(url, server, log)
        yield url
    finally:
        stop_tree(server)


def serve(domains: Sequence[str], data_root: Path | None = None, limit: int = 1) -> None:
    """Register the domains' deployments and run what is due, until SIGTERM or Ctrl-C; schedules are paused then.

    At most `limit` runs at a time. PREFECT_API_URL must name a server. Raises AlterError as `deploy` does.
    """
    from prefect import serve as serve_deployments
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows.approval import ask
    from flows.deployments.declarations import REVIEW, WATCH, declare, environment, own_schedule
    from flows.deployments.deploy import deploy
    from flows.deployments.names import FLOW
    from flows.deployments.watch import watch
    from flows.produce import produce

    os.environ.update(environment())  # of the processes that the runner starts
    deploy(domains, None, data_root=data_root)
    of_name: dict[str, Any] = {FLOW: produce, WATCH[0]: watch, REVIEW[0]: ask}
    deployments = []
    for one in declare(domains, None, data_root):
        deployments.append(
            RunnerDeployment.from_flow(
                of_name[one.flow],
                one.name,
                schedules=[own_schedule(one.schedule)] if one.schedule else None,
                paused=False,
                parameters=dict(one.fields["parameters"]),
                tags=list(one.fields["tags"]),
                description=one.fields["description"],
                concurrency_limit=one.limit,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    serve_deployments(*deployments, limit=limit, print_starting_message=False)


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise WorkspaceError(f"the Prefect server ended with exit code {server.returncode}; its log is {log}")
        try:
            with urlopen(f"{url}/health", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.25)
    raise WorkspaceError(f"the Prefect server gave no answer within {START_SECONDS:.0f} s; its log is {log}")
