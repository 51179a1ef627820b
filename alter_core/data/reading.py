"""From every task's sources to files of rows: read, mapped, split by hash, sorted, deduplicated, written."""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alter_core.data.alike import MOST, AlikeGroups
from alter_core.data.callables import Callables
from alter_core.data.dataset import SPLITS, TaskDataset, TaskWriter, id_number
from alter_core.data.deduplicate import Deduplicated
from alter_core.data.manifest import Manifest, TaskManifest
from alter_core.data.mapping import Mapper, MissingColumn, RowError, columns_of
from alter_core.data.places import Roots, is_url, shown_url
from alter_core.data.sorted_rows import Row, SortedRows
from alter_core.data.sources import open_source
from alter_core.data.split_column import SplitColumns, parts_of
from alter_core.errors import DataError
from alter_core.problems import Problems, TooManyProblems, listed
from alter_core.spec import DomainSpec, SourceSpec, TaskSpec
from alter_core.spec.yaml_text import quoted
from alter_core.text import key_of, share_of

Progress = Callable[..., None]
REPORT_ROWS = 20_000


class Reader:
    """Reads every task's rows and writes them down."""

    def __init__(self, spec: DomainSpec, roots: Roots, callables: Callables, progress: Progress) -> None:
        self._spec = spec
        self._roots = roots
        self._callables = callables
        self._progress = progress
        self._problems = Problems()

    def write(self, made: Path) -> Manifest:
        """Write every task's rows under `made`; the manifest without digest."""
        tasks: dict[str, TaskManifest] = {}
        try:
            for number, task in enumerate(self._spec.tasks):
                self._progress(number, len(self._spec.tasks), text=task.name)
                try:
                    if written := self._write_task(task, number, made):
                        tasks[task.name] = written
                except DataError as error:
                    if error.transient:
                        raise
                    for line in error.problems or (error.headline,):
                        self._problems.lines.append(f"{task.name}: {line}")
        except TooManyProblems:
            pass
        how = self._how_made()
        self._problems.raise_if_any(f"domain {self._spec.name}: its sources cannot be used as they are{how}")
        self._progress(len(tasks), len(self._spec.tasks))
        return {"order": list(tasks), "tasks": tasks}

    def _how_made(self) -> str:
        """The one command that makes the rows, where the domain's folder says how and some are not there."""
        sources = [source for task in self._spec.tasks for source in (task.source, task.test) if source]
        paths = [source.path for source in sources if isinstance(source.path, str) and not is_url(source.path)]
        folder = self._roots.folder.resolve()
        if not (folder / "rows.py").is_file() or all(map(self._stands, paths)):
            return ""
        command = f"python -m domains.command {folder.name} --data-root FOLDER"
        if (folder.parent.parent / "Makefile").is_file():
            command = f"make domains DATA_ROOT=FOLDER NAMES={folder.name}"
        return f"; `{command}` makes its rows from public files"

    def _stands(self, path: str) -> bool:
        return any((root / path).exists() for root in self._roots)

    def _write_task(self, task: TaskSpec, number: int, made: Path) -> TaskManifest | None:
        self._problems.task = task.name
        parts: list[tuple[str, bool]] = []
        sources = {"source": task.source} | ({"test": task.test} if task.test else {})
        before = len(self._problems.lines)
        with tempfile.TemporaryDirectory(prefix=".sort-", dir=made) as scratch:
            rows = SortedRows(Path(scratch))
            read = [self._read(task, role, source, rows, parts, number) for role, source in sources.items()]
            if len(self._problems.lines) > before:
                return None  # raised later, with those of the other tasks
            settled = Deduplicated(task)
            labelled = task.task_type.labelled
            with TaskWriter(made / task.name, task.name) as writer:
                for row in settled.rows(rows):
                    writer.add(row, labelled)
        counts, (splits, label_counts, digest) = settled.counts, writer.summary()
        labels = list(task.labels or sorted(label_counts["train"]))
        manifest: TaskManifest = {
            "rows": splits,
            "label_counts": label_counts,
            "digest": digest,
            "inputs": counts["inputs"],
            "duplicates": counts["duplicates"],
            "leakage": counts["leakage"],
            "contradictions": counts["contradictions"],
            "contradicting": counts["contradicting"],
            "by_case": counts["by_case"],
            "over_limit": counts["over_limit"],
            "test_inputs": counts["test_inputs"],
            "leaked_inputs": counts["leaked_inputs"],
            "examples": settled.examples,
            "read": sum(each.wanted for each in read),
            "filtered": sum(each.total - each.wanted for each in read),
            "tidied": dict(sum((each.mapper.tidied for each in read), Counter[str]())),
            "notes": self._problems.notes(),
            "labels": labels if labelled else [],
            "type": task.type,
            "sources": {role: describe(source) for role, source in sources.items()},
            "parts": parts,
        }
        dataset = TaskDataset(made, {"tasks": {task.name: manifest}, "order": [task.name]})
        self._check_ids(task.name, writer.repeated_ids(), dataset)
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
    ) -> "_Read":
        """Read one source into `rows`. Raises DataError where none of its rows is wanted."""
        split = self._spec.split
        by_group = split.by == "group" and role == "source"
        columns = columns_of(source, by_group)
        make = Mapper(task, source, by_group)
        test_share = 0.0 if task.test else split.test
        known_share = test_share + split.validation
        read = _Read(role, source, make, AlikeGroups(), SplitColumns(columns))
        for part in open_source(source, columns, self._roots, self._callables, self._problems):
            index = len(parts)
            parts.append((part.name, part.by_line))
            first = True
            for line, raw in part.rows:
                read.total += 1
                read.splits.look_at(raw)
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
                chosen = role
                if role == "source":
                    share = share_of(key_of("split", row.group if by_group else folded))
                    chosen = "test" if share < test_share else "validation" if share < known_share else "train"
                if by_group:
                    read.groups.look_at(row.group, chosen)
                rows.add(Row(key_of(folded), row.input, row.target, chosen, row.id, index, line))
                read.wanted += 1
                if read.wanted % REPORT_ROWS == 0:
                    self._progress(number, len(self._spec.tasks), text=f"{task.name}: {read.wanted:,} rows")
        read.note(self._problems, task)
        if not read.wanted and not self._problems.lines:
            left = f"none of its {read.total} rows passes source > where" if read.total else "it has no rows"
            unmet = "; ".join(_unmet(column, *values) for column, values in make.unmet().items()) if read.total else ""
            name = parts[-1][0] if parts else role
            role_of = "test" if role == "test" else "train"
            raise DataError(f"{name}: {left}{unmet and f' ({unmet})'}; a task needs rows to {role_of} on")
        return read


@dataclass
class _Read:
    """What reading one source came to."""

    role: str
    source: SourceSpec
    mapper: Mapper
    groups: AlikeGroups
    splits: SplitColumns
    total: int = 0
    wanted: int = 0

    def note(self, problems: Problems, task: TaskSpec) -> None:
        """Add what must be told, and stops nothing."""
        for column, values in self.mapper.unmet().items():
            problems.note(
                f"{self.role} > where > {column}",
                "values of where are there",
                _unmet(column, *values),
                "write it as the rows have it, or drop it",
            )
        if task.layout == "auto":
            for what, rows in sorted(self.mapper.tidied.items()):
                kind, _, changed = what.partition(": ")
                if kind == "target" or changed == "indentation":
                    problems.note(
                        self.role,
                        "tidying leaves what carries meaning",
                        f"tidying changed the {changed} of {rows:,} {kind}s",
                        "layout: kept leaves them as they are; layout: prose says that it may be",
                    )
        if self.groups.count:
            pairs = ", ".join(f"{one!r} and {two!r}" for one, two in self.groups.pairs)
            problems.note(
                self.role,
                "groups that look alike go together",
                f"{self.groups.count:,} groups look like another one and are in another split: {pairs}",
                "write each group in one way: rows that belong together are trained on and tested on",
            )
        if self.groups.full:
            problems.note(
                self.role,
                "groups that look alike go together",
                f"only the first {MOST:,} groups were compared",
                "see that the others are written in one way each",
            )
        for column, found in {} if task.test else self.splits.found().items():
            training, testing = parts_of(found)
            problems.note(
                self.role,
                "a column that says the split is used",
                f"column {column!r} holds {listed(list(found))}, and nothing in the spec names it: rows go by hash",
                f"to use it, write\n    source: {{..., where: {{{quoted(column)}: {quoted(training)}}}}}\n"
                f"    test: {{..., where: {{{quoted(column)}: {quoted(testing)}}}}}",
            )


def _unmet(column: str, never: list[str], met: list[str]) -> str:
    return f"no row has {listed(never)} in column {column!r}; rows have {listed(met) or 'nothing there'}"


def describe(source: SourceSpec) -> dict[str, object]:
    """The source as a person may see it anywhere: no credentials, no values of variables."""
    from alter_core.data.sql import shown_database

    values = source.model_dump(mode="json", exclude_defaults=True)
    if source.path is not None:
        paths = [source.path] if isinstance(source.path, str) else source.path
        values["path"] = [shown_url(p) if is_url(p) else p for p in paths]
    if source.sql is not None:
        values["sql"] = shown_database(source.sql)
    return values
