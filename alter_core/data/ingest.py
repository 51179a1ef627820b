"""From sources to a TaskDataset on disk. Memory stays flat: rows are read, sorted by hash in runs, and merged.

Rows end up in order of their input's hash. That makes the order, the digest and every `limit` independent of the order
of files, brings equal inputs together, and makes any first rows a fair sample.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from alter_core.code import code_digest
from alter_core.data.callables import Callables
from alter_core.data.dataset import TaskDataset
from alter_core.data.fingerprint import INGESTION, source_fingerprint
from alter_core.data.places import Roots
from alter_core.data.reading import Progress, Reader
from alter_core.errors import DataError, WorkspaceError
from alter_core.spec import SOURCE_KINDS, DomainSpec
from alter_core.whole import digest_of, write_json, written_whole
from alter_core.workspace import Workspace


def dataset_at_hand(spec: DomainSpec, folder: Path, workspace: Workspace, data_root: Path | None) -> TaskDataset | None:
    """What `ingest` would reuse; None where it would read. Raises DataError when a source is not there."""
    fingerprint = source_fingerprint(spec, folder, data_root)
    if fingerprint is None or not TaskDataset.stands_at(workspace.datasets / fingerprint):
        return None
    return TaskDataset.open(workspace.datasets / fingerprint)


def ingest(
    spec: DomainSpec,
    folder: Path,
    workspace: Workspace,
    data_root: Path | None = None,
    progress: Progress | None = None,
) -> TaskDataset:
    """Read every source of a domain into `<workspace.datasets>/<key>/`, or reuse the folder that holds just that.

    `folder` is the spec's own. `progress(done, total, text=)` counts tasks. Raises DataError with up to 20
    problems, each with file and line.
    """
    advance = progress or (lambda *_, **__: None)
    roots = Roots(folder, data_root)
    callables = Callables(folder)
    try:
        fingerprint = source_fingerprint(spec, folder, data_root, callables)
    except DataError as error:
        if error.transient:
            raise
        fingerprint = None  # reading meets the same problem, and all others with it
    if fingerprint is not None:
        finished = workspace.datasets / fingerprint
        if TaskDataset.stands_at(finished):
            advance(len(spec.tasks), len(spec.tasks), text="read already, and unchanged")
            return TaskDataset.open(finished)
    reader = Reader(spec, roots, callables, advance)
    with _scratch(workspace.datasets) as scratch:
        made = scratch / "made"
        made.mkdir()
        manifest = reader.write(made)
        if fingerprint and source_fingerprint(spec, folder, data_root, callables) != fingerprint:
            fingerprint = None  # written to meanwhile: what was read may be neither the former content nor the new one
        facts = _facts(spec, callables)
        digest = digest_of({name: task["digest"] for name, task in manifest["tasks"].items()}, facts)
        made_of = {"domain": spec.name, "code": code_digest(INGESTION), "facts": facts, "fingerprint": fingerprint}
        write_json(made / "manifest.json", {**manifest, "digest": digest, **made_of})
        # What cannot be told before reading is kept under its content.
        target = workspace.datasets / (fingerprint or digest)
        with written_whole(target) as whole:
            made.rename(whole)
    return TaskDataset.open(target)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".reading-", dir=parent)
    except OSError as error:
        raise WorkspaceError(
            f"cannot write under {parent}: {error.strerror}; set ALTER_HOME to a folder that you may write to"
        ) from error
    with folder as name:
        yield Path(name)


def _facts(spec: DomainSpec, callables: Callables) -> dict[str, dict[str, object]]:
    """What callables say that each task's rows depend on, such as versions: part of the digest."""
    facts: dict[str, dict[str, object]] = {}
    for task in spec.tasks:
        for role, source in (("source", task.source), ("test", task.test)):
            if source and source.callable and (known := callables.fingerprint(source.callable, source.arguments)):
                facts.setdefault(task.name, {})[role] = known["facts"]
    return facts


def shown_source(described: Mapping[str, object]) -> str:
    """Where rows come from, as `reading.describe` tells it: files, a hub data set, a database or a callable."""
    value = next(described[kind] for kind in SOURCE_KINDS if described.get(kind))
    return ", ".join(value) if isinstance(value, list) else str(value)
