"""From sources to a TaskDataset on disk. Memory stays flat: rows are read, sorted by hash in runs, and merged.

Rows end up in order of their input's hash. That makes the order, the digest and every `limit` independent of the order
of files, brings equal inputs together, and makes any first rows a fair sample.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alter_core.code import code_digest
from alter_core.data.callables import Callables
from alter_core.data.dataset import SPLITS, TaskDataset, TaskWriter, id_number
from alter_core.data.deduplicate import Deduplicated
from alter_core.data.fingerprint import INGESTION, source_fingerprint
from alter_core.data.mapping import MissingColumn, RowError, columns_of, mapper
from alter_core.data.places import Roots
from alter_core.data.sorted_rows import Row, SortedRows
from alter_core.data.sources import open_source
from alter_core.errors import DataError, WorkspaceError
from alter_core.problems import Problems, TooManyProblems
from alter_core.spec import SOURCE_KINDS, DomainSpec, SourceSpec, TaskSpec
from alter_core.text import key_of, share_of
from alter_core.whole import digest_of, write_json, written_whole
from alter_core.workspace import Workspace

__all__ = ["ingest", "source_fingerprint"]

Progress = Callable[..., None]
REPORT_ROWS = 20_000


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
    tell = progress or (lambda *_, **__: None)
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
            tell(len(spec.tasks), len(spec.tasks), text="read already, and unchanged")
            return TaskDataset.open(finished)
    reader = _Reader(spec, roots, callables, tell)
    with _scratch(workspace.datasets) as scratch:
        made = scratch / "made"
        made.mkdir()
        manifest = reader.write(made)
        if fingerprint and source_fingerprint(spec, folder, data_root, callables) != fingerprint:
            fingerprint = None  # written to meanwhile: what was read may be neither the former content nor the new one
        facts = _facts(spec, callables)
        digest = digest_of({name: task["digest"] for name, task in manifest["tasks"].items()}, facts)
        write_json(made / "manifest.json", manifest | {"digest": digest, "facts": facts, "fingerprint": fingerprint})
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


def _facts(spec: DomainSpec, callables: Callables) -> dict[str, Any]:
    """What callables say that each task's rows depend on, such as versions: part of the digest."""
    facts: dict[str, Any] = {}
    for task in spec.tasks:
        for role, source in (("source", task.source), ("test", task.test)):
            if source and source.callable and (told := callables.fingerprint(source.callable, source.arguments)):
                facts.setdefault(task.name, {})[role] = told["facts"]
    return facts


class _Reader:
    def __init__(self, spec: DomainSpec, roots: Roots, callables: Callables, progress: Progress) -> None:
        self._spec = spec
        self._roots = roots
        self._callables = callables
        self._progress = progress
        self._problems = Problems()

    def write(self, made: Path) -> dict[str, Any]:
        """Write every task's rows under `made`; the manifest without digest."""
        tasks: dict[str, Any] = {}
        try:
            for number, task in enumerate(self._spec.tasks):
                self._progress(number, len(self._spec.tasks), text=task.name)
                try:
                    tasks[task.name] = self._write_task(task, number, made)
                except DataError as error:
                    if error.transient:
                        raise
                    for line in error.problems or (error.headline,):
                        self._problems.lines.append(f"{task.name}: {line}")
        except TooManyProblems:
            pass
        self._problems.raise_if_any(f"domain {self._spec.name}: its sources cannot be used as they are")
        self._progress(len(tasks), len(self._spec.tasks))
        return {"domain": self._spec.name, "code": code_digest(INGESTION), "order": list(tasks), "tasks": tasks}

    def _write_task(self, task: TaskSpec, number: int, made: Path) -> dict[str, Any]:
        self._problems.task = task.name
        parts: list[tuple[str, bool]] = []
        sources = {"source": task.source} | ({"test": task.test} if task.test else {})
        before = len(self._problems.lines)
        with tempfile.TemporaryDirectory(prefix=".sort-", dir=made) as scratch:
            rows = SortedRows(Path(scratch))
            counts = [self._read(task, role, source, rows, parts, number) for role, source in sources.items()]
            if len(self._problems.lines) > before:
                return {"digest": ""}  # raised later, with those of the other tasks
            settled = Deduplicated(task)
            labelled = task.task_type.labelled
            with TaskWriter(made / task.name, task.name) as writer:
                for row in settled.rows(rows):
                    writer.add(row, labelled)
        summary = writer.summary()
        labels = list(task.labels or sorted(summary["label_counts"]["train"]))
        manifest = (
            summary
            | settled.summary()
            | {
                "read": sum(wanted for wanted, _ in counts),
                "filtered": sum(total - wanted for wanted, total in counts),
                "labels": labels if labelled else [],
                "type": task.type,
                "sources": {role: describe(source) for role, source in sources.items()},
                "parts": parts,
            }
        )
        self._check_ids(
            task.name, writer.repeated_ids(), TaskDataset(made, {"tasks": {task.name: manifest}, "order": [task.name]})
        )
        return manifest

    def _check_ids(self, task: str, repeated: set[int], dataset: TaskDataset) -> None:
        """A row's id must be its own; the place of each that is not goes to the problems."""
        if not repeated:
            return
        seen: dict[str, str] = {}
        for split in SPLITS:
            for row in dataset.placed_rows(split, task):
                if id_number(row["id"]) in repeated:
                    place = dataset.place(task, row["file"], row["line"])
                    if row["id"] in seen:
                        places = " and ".join(sorted((seen[row["id"]], place)))
                        self._problems.add(
                            places,
                            f"the id {row['id']!r} stands at both; ids must differ: mend them, or drop columns > id",
                        )
                    seen.setdefault(row["id"], place)

    def _read(
        self,
        task: TaskSpec,
        role: str,
        source: SourceSpec,
        rows: SortedRows,
        parts: list[tuple[str, bool]],
        number: int,
    ) -> tuple[int, int]:
        """Read one source into `rows`; how many of its rows are wanted, and are there. Raises DataError for none."""
        split = self._spec.split
        by_group = split.by == "group" and (role == "source")
        make = mapper(task, source, by_group)
        test_share = 0.0 if task.test or role == "test" else split.test
        validation_share = 0.0 if role == "test" else split.validation
        count = total = 0
        for part in open_source(source, columns_of(source, by_group), self._roots, self._callables, self._problems):
            index = len(parts)
            parts.append((part.name, part.by_line))
            first = True
            for line, raw in part.rows:
                total += 1
                try:
                    row = make(raw)
                except MissingColumn as error:
                    self._problems.add(part.place(line), error.message(part.name))
                    if first:
                        break  # the whole part lacks it
                    continue
                except RowError as error:
                    self._problems.add(part.place(line), str(error))
                    continue
                first = False
                if row is None:
                    continue
                folded = row.input.casefold()
                if role == "test":
                    chosen = "test"
                else:
                    share = share_of(key_of("split", row.group if by_group else folded))
                    chosen = "train"
                    if share < test_share + validation_share:
                        chosen = "test" if share < test_share else "validation"
                rows.add(Row(key_of(folded), row.input, row.target, chosen, row.id, index, line))
                count += 1
                if count % REPORT_ROWS == 0:
                    self._progress(number, len(self._spec.tasks), text=f"{task.name}: {count:,} rows")
        if not count and not self._problems.lines:
            left = f"none of its {total} rows passes source > where" if total else "it has no rows"
            name = parts[-1][0] if parts else role
            raise DataError(f"{name}: {left}; a task needs rows to {'test' if role == 'test' else 'train'} on")
        return count, total


def shown_source(described: Mapping[str, Any]) -> str:
    """Where rows come from, of what `describe` tells: files, a hub data set, a database or a callable."""
    value = next(described[kind] for kind in SOURCE_KINDS if described.get(kind))
    return ", ".join(value) if isinstance(value, list) else str(value)


def describe(source: SourceSpec) -> dict[str, Any]:
    """The source as a person may see it anywhere: no credentials, no values of variables."""
    from alter_core.data.places import is_url, shown_url
    from alter_core.data.sql import shown_database

    values = source.model_dump(mode="json", exclude_defaults=True)
    if source.path is not None:
        paths = [source.path] if isinstance(source.path, str) else source.path
        values["path"] = [shown_url(p) if is_url(p) else p for p in paths]
    if source.sql is not None:
        values["sql"] = shown_database(source.sql)
    return values
