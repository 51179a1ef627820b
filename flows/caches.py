"""What a workspace keeps only to be quicker next time, and what of it nothing has used for long."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from alter_core.workspace import Workspace

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
        facts = [file.stat() for file in entry.rglob("*") if file.is_file()] or [entry.stat()]
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
        try:
            with FileLock(cache.path.parent / ".lock", timeout=0):  # that of a production, see Plan.lock_file
                shutil.rmtree(cache.path, ignore_errors=True)
                freed += cache.bytes
        except Timeout:
            continue
    return freed


def _entries(workspace: Workspace) -> Iterator[Path]:
    shared = (workspace.trunk_cache, workspace.datasets, workspace.downloads)
    for root in (*shared, *(folder for folder in workspace.runs.glob("*") if folder.is_dir())):
        yield from (entry for entry in root.glob("*") if entry.is_dir())
