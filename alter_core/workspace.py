"""Every path under ALTER_HOME; nothing else builds a path there."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from alter_core.errors import WorkspaceError


@dataclass(frozen=True)
class Workspace:
    """The folder that holds everything a factory derives: it can be deleted and made again, but for `mlflow`."""

    home: Path

    @classmethod
    def default(cls) -> "Workspace":
        """The folder named by ALTER_HOME, else `.alter` in the current folder. Raises WorkspaceError for ~NOBODY."""
        given = os.environ.get("ALTER_HOME") or ".alter"
        try:
            home = Path(given).expanduser().absolute()
        except RuntimeError:
            raise WorkspaceError(
                f"ALTER_HOME: {given!r} begins with a user who has no home folder here; correct or unset it"
            ) from None
        # The folder that `..` begins from may go; a link may be meant to stay one.
        return cls(home.resolve() if ".." in home.parts else home)

    def holds(self, path: Path) -> bool:
        """Whether a path is below this folder, links followed."""
        return path.resolve().is_relative_to(self.home.resolve())

    @property
    def backbones(self) -> Path:
        return self.home / "backbones"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def trunk_cache(self) -> Path:
        return self.home / "trunk_cache"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def downloads(self) -> Path:
        """Bundles of a registry on another machine."""
        return self.home / "downloads"

    @property
    def mlflow_store(self) -> Path:
        """SQLite file of the embedded MLflow store."""
        return self.home / "mlflow" / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """That store's address, as MLflow takes it."""
        return f"sqlite:///{self.mlflow_store}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlflow" / "artifacts"

    @property
    def prefect_home(self) -> Path:
        return self.home / "prefect"

    @property
    def stack(self) -> Path:
        """Databases, passwords and logs of a stack that runs on this machine without Docker (`make up-local`)."""
        return self.home / "stack"

    @property
    def identity(self) -> str:
        """Tells this workspace from others, the same from every machine and under every path; a copy is another one."""
        file = self.home / "workspace-id"
        if not file.exists() or not file.stat().st_size:
            self.home.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="ascii") as held:  # of two that begin at once, both read the first line
                held.write(f"{uuid4().hex}\n")
        return f"{file.read_text(encoding='ascii').split()[0]}-{file.stat().st_ino}"

    def run_folder(self, domain: str, run_key: str) -> Path:
        """Folder of one production of a domain; the same key finds the same folder, so that a run can resume."""
        return self.runs / domain / run_key

    def need(self, free_bytes: int, what: str) -> None:
        """Raise WorkspaceError unless `free_bytes` are free on the workspace's disk."""
        self.home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.home).free
        if free < free_bytes:
            raise WorkspaceError(
                f"{what} needs {free_bytes / 1e6:,.0f} MB and {self.home} has {free / 1e6:,.0f} MB free: "
                "free some space, or set ALTER_HOME to a larger disk"
            )
