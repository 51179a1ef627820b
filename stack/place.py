"""Where a stack on this machine lies, on which ports it listens, and what its users need to know to reach it."""

import json
import os
import socket
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from alter_core.errors import WorkspaceError
from alter_core.whole import write_json
from alter_core.workspace import Workspace
from stack.passwords import passwords, read_private

HOST = "127.0.0.1"
SOCKET_LENGTH = 100  # bytes of a unix socket's path that every kernel takes
POOL = "alter"
# Clients wait out a restart of what they talk to: about four minutes for MLflow, about one for Prefect.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7", "PREFECT_CLIENT_MAX_RETRIES": "7"}
QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
}


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback."""

    postgres: int = 5433
    redis: int = 6380
    prefect: int = 4200
    mlflow: int = 5000


@dataclass(frozen=True)
class Place:
    """One stack: a folder in the workspace, and its ports. Two stacks on one machine need other folders and ports."""

    home: Path
    """ALTER_HOME, which the workers share."""
    ports: Ports
    workers: int = 1

    @classmethod
    def open(cls, home: Path) -> "Place":
        """The stack that was set up in this workspace. Raises WorkspaceError when there is none."""
        record = cls(home, Ports()).folder / "stack.json"
        if not record.exists():
            raise WorkspaceError(f"no stack was set up in {home}: start one with `make up-local`, or set ALTER_HOME")
        found = json.loads(record.read_text(encoding="utf-8"))
        return cls(home, Ports(**found["ports"]), found["workers"])

    def prepare(self) -> None:
        """Make the folder and record the ports. Raises WorkspaceError when a socket's path would be too long."""
        if len(os.fsencode(self.socket)) > SOCKET_LENGTH:
            raise WorkspaceError(
                f"the path {self.socket} is longer than the {SOCKET_LENGTH} bytes that a socket may have: "
                "set ALTER_HOME to a shorter one"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        write_json(self.folder / "stack.json", {"ports": asdict(self.ports), "workers": self.workers})

    def check_ports(self) -> None:
        """Raises WorkspaceError with every port that something else listens on."""
        taken = []
        for name, port in asdict(self.ports).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    taken.append(f"{port} ({name}): {error.strerror}; choose another with --{name}-port")
        if taken:
            raise WorkspaceError("the stack cannot listen on every port", taken)

    @property
    def folder(self) -> Path:
        return Workspace(self.home).stack

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def socket(self) -> Path:
        """Where the process manager listens for commands."""
        return self.folder / "control.sock"

    @property
    def database(self) -> Path:
        return self.folder / "postgres"

    @property
    def redis_settings(self) -> Path:
        """Its password would otherwise stand in the list of processes."""
        return self.folder / "redis.conf"

    @property
    def client_file(self) -> Path:
        return self.folder / "client.env"

    @property
    def run_environment(self) -> dict[str, str]:
        """What runs need beside the stack's own settings, such as passwords that specs name: `worker.env`, if there."""
        file = self.folder / "worker.env"
        return read_private(file) if file.exists() else {}

    @cached_property
    def secrets(self) -> dict[str, str]:
        return passwords(self.folder / "passwords.env")

    @property
    def prefect_url(self) -> str:
        return f"http://{HOST}:{self.ports.prefect}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://{HOST}:{self.ports.mlflow}"

    def client(self, account: str = "factory") -> dict[str, str]:
        """Environment of whoever uses the stack: a worker, `alter deploy`, a person with an MLflow account."""
        return {
            "ALTER_HOME": str(self.home),
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_API_AUTH_STRING": f"admin:{self.secrets['PREFECT_PASSWORD']}",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_TRACKING_USERNAME": account,
            "MLFLOW_TRACKING_PASSWORD": self.secrets[f"MLFLOW_{account.upper()}_PASSWORD"],
            **PATIENCE,
            **QUIET,
        }
