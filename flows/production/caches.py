"""What a workspace keeps only to be quicker next time, and what of it nothing has used for long."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from stat import S_ISREG

import typer
from filelock import FileLock, Timeout

from alter_core.workspace import Workspace
from flows.production.plan import ABLATION_LOCK, LOCK

DAY = 86_400.0


@dataclass(frozen=True)
class Cache:
    """A data set, a trunk cache, a download, or the folder of a stage or report of an earlier run."""

    path: Path
    unused_days: float
    """Since a file of it was last read or written."""
    bytes: int


def plan_caches(workspace: Workspace, days: float) -> list[Cache]:
    """Caches that nothing has used for so many days, the largest first. Registered models are not among them, nor what
    links lead to outside of the workspace: it may be another's, of which this one is a copy. That is said on stderr."""
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
    """Delete them and give the bytes that were freed.

    A domain that is being produced or compared keeps its own, and while there is one the caches that domains share stay
    as well: which of them it reads is not known here. That is said on stderr.
    """
    own = [cache for cache in caches if cache.path.parent.parent == workspace.runs]
    shared = [cache for cache in caches if cache not in own]
    freed = 0
    for cache in own:
        with ExitStack() as locks:
            if not _held(locks, cache.path.parent / LOCK) and not _held(locks, *cache.path.glob(ABLATION_LOCK)):
                freed += _remove(cache)
    if shared:
        with ExitStack() as locks:  # no domain begins meanwhile
            working = workspace.runs.glob(f"*/{LOCK}"), workspace.runs.glob(f"*/*/{ABLATION_LOCK}")
            if busy := _held(locks, *chain(*working)):
                names = ", ".join(sorted({lock.relative_to(workspace.runs).parts[0] for lock in busy}))
                typer.echo(
                    f"the {len(shared)} data sets, trunk caches and downloads stay, because a run of {names} may use "
                    "them now; run `alter gc --yes` again when it has ended",
                    err=True,
                )
            else:
                freed += sum(map(_remove, shared))
    return freed


def _held(locks: ExitStack, *files: Path) -> list[Path]:
    """Those of the lock files that others hold; the rest are held until `locks` closes."""
    busy = []
    for file in files:
        try:
            locks.enter_context(FileLock(file, timeout=0))
        except Timeout:
            busy.append(file)
    return busy


def _remove(cache: Cache) -> int:
    shutil.rmtree(cache.path, ignore_errors=True)
    return cache.bytes


def _stats(entry: Path) -> Iterator[os.stat_result]:
    """Of the files in a folder, or of itself where it is empty; a run may work there, and files vanish."""
    found = False
    for file in [*entry.rglob("*"), entry]:
        with suppress(FileNotFoundError, NotADirectoryError):
            facts = file.stat()
            if S_ISREG(facts.st_mode) or (file == entry and not found):
                found = True
                yield facts


def _entries(workspace: Workspace) -> Iterator[Path]:
    shared = (workspace.trunk_cache, workspace.datasets, workspace.downloads)
    for root in (*shared, *(folder for folder in workspace.runs.glob("*") if folder.is_dir())):
        for entry in root.glob("*"):
            if entry.is_dir() and workspace.holds(entry):
                yield entry
            elif entry.is_dir():
                typer.echo(f"{entry} stays: it leads to {entry.resolve()}, outside of {workspace.home}", err=True)
