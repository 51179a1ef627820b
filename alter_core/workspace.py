"""Every path under ALTER_HOME; nothing else builds a path there."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from alter_core.errors import WorkspaceError

DIGEST_LENGTH = 16


@dataclass(frozen=True)
class Workspace:
    """The folder that holds everything a factory derives: it can be deleted and made again, but for `mlflow`."""

    home: Path

    @classmethod
    def default(cls) -> "Workspace":
        """The folder named by ALTER_HOME, else `.alter` in the current folder. Raises WorkspaceError for ~NOBODY."""
        given = os.environ.get("ALTER_HOME") or ".alter"
        try:
            return cls(Path(given).expanduser().absolute())
        except RuntimeError:
            raise WorkspaceError(
                f"ALTER_HOME: {given!r} begins with a user who has no home folder here; correct or unset it"
            ) from None

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
    def exports(self) -> Path:
        return self.home / "exports"

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


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; when the block ends well, it takes the target's name in one step.

    The block may make a file or a folder. It is on the disk before it gets its name: a power cut leaves no empty file
    there. A folder that stands at `target` is replaced, in two steps; on an error nothing stays.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise WorkspaceError(
            f"cannot write under {target.parent}: {error.strerror}; name a folder that you may write to (ALTER_HOME "
            "names the workspace)"
        ) from error
    try:
        made = scratch / target.name
        yield made
        _as_readable_as_their_folder(made)
        for path in [made, *made.rglob("*")] if made.is_dir() else [made]:
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if target.is_dir() and not target.is_symlink():
            target.rename(scratch / "replaced")
        made.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _as_readable_as_their_folder(made: Path) -> None:
    """safetensors makes its files readable by their owner alone, whatever the umask: others serve these models."""
    for path in made.rglob("*") if made.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | made.stat().st_mode & 0o044)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with written_whole(target) as path:
        path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def digest_of(*values: Any) -> str:
    """Short sha256 of JSON-able values; equal values give equal digests on every machine."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def digest_of_files(paths: dict[str, Path]) -> str:
    """Short sha256 over named files: names and contents, in name order."""
    whole = hashlib.sha256()
    for name in sorted(paths):
        with paths[name].open("rb") as file:
            whole.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:DIGEST_LENGTH]
