"""What a workspace keeps only to be quicker next time, and what of it nothing has used for long."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from alter_core.workspace import Workspace
from flows.plan import ABLATION_LOCK

DAY = 86_400.0


@dataclass(frozen=True)
class Cache:
    """A data set, a trunk cache, a download, or the folder of a stage or report of an earlier run."""

    path: Path
    unused_days: float
    """Since a file of it was last read or written."""
    bytes: int


def plan_caches(workspace: Workspace, days: float) -> list[Cache]:
    """Caches that nothing has used for so many days, the largest first. Registered models are not among them."""
    now = time.time()
    found = []
    for entry in _entries(workspace):
        facts = list(_stats(entry))
        if not facts:
            continue
        unused = (now - max(max(fact.st_atime, fact.st_mtime) for fact in facts)) / DAY
        if unused >= days:
            found.append(Cache(entry, unused, sum(fact.st_size for fact in facts)))
    return sorted(found, key=lambda cache: -cache.bytes)


def remove_caches(workspace: Workspace, caches: Sequence[Cache]) -> int:
    """Delete them, but for those of a domain that is being produced; bytes that were freed."""
    freed = 0
    for cache in caches:
        if cache.path.parent.parent != workspace.runs:
            shutil.rmtree(cache.path, ignore_errors=True)
            freed += cache.bytes
            continue
        own = cache.path / ABLATION_LOCK
        with ExitStack() as locks, suppress(Timeout):
            locks.enter_context(FileLock(cache.path.parent / ".lock", timeout=0))  # a production's, see Plan.lock_file
            if own.exists():
                locks.enter_context(FileLock(own, timeout=0))
            shutil.rmtree(cache.path, ignore_errors=True)
            freed += cache.bytes
    return freed


def _stats(entry: Path) -> Iterator[os.stat_result]:
    """Of the files in a folder, or of itself where it is empty; a run may work there, and files vanish."""
    found = False
    for file in [*entry.rglob("*"), entry]:
        with suppress(FileNotFoundError):
            if file.is_file() or (file == entry and not found):
                found = True
                yield file.stat()


def _entries(workspace: Workspace) -> Iterator[Path]:
    shared = (workspace.trunk_cache, workspace.datasets, workspace.downloads)
    for root in (*shared, *(folder for folder in workspace.runs.glob("*") if folder.is_dir())):
        yield from (entry for entry in root.glob("*") if entry.is_dir())
