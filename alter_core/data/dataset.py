"""TaskDataset: the rows of a domain on disk, as Arrow files that are read by memory map."""

import hashlib
import json
from array import array
from collections import Counter
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from alter_core.data.manifest import Manifest
from alter_core.data.sorted_rows import Row
from alter_core.errors import DataError
from alter_core.problems import place

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "validation", "test")
COLUMNS = ("task", "input", "target", "id", "split")
_SCHEMA = pa.schema([*((name, pa.string()) for name in COLUMNS), ("file", pa.int32()), ("line", pa.int64())])
_BATCH = 1000


class TaskDataset:
    """Rows of a domain: `<path>/<task>/<split>.arrow`, and `<path>/manifest.json`, written last."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @staticmethod
    def stands_at(path: Path) -> bool:
        """Whether a finished data set lies there; folders get their name only when they are whole."""
        return (path / "manifest.json").is_file()

    @classmethod
    def open(cls, path: Path) -> "TaskDataset":
        """Raises DataError when there is no finished data set at `path`."""
        try:
            manifest: Manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: is no data set of this factory; ingest the domain again (`alter data`)"
            ) from error
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """Of all rows, and of the versions they were read from; the order of source files does not matter."""
        return str(self.manifest["digest"])

    @cached_property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Label lists of the label tasks, in the spec's order, or sorted where the spec gives none."""
        tasks = self.manifest["tasks"]
        return {name: tuple(tasks[name]["labels"]) for name in self.task_names if tasks[name]["labels"]}

    @property
    def task_names(self) -> tuple[str, ...]:
        """In the spec's order."""
        return tuple(self.manifest["order"])

    def counts(self, split: str) -> dict[str, int]:
        """Rows of a split by task, without opening them."""
        return {name: int(self.manifest["tasks"][name]["rows"][split]) for name in self.task_names}

    def rows(self, split: str, task: str | None = None) -> "datasets.Dataset":
        """Rows of a split, of one task or of all in order, memory-mapped: task, input, target, id, split."""
        return self._read(split, task).select_columns(list(COLUMNS))

    def placed_rows(self, split: str, task: str) -> "datasets.Dataset":
        """The same rows with the columns file (see `place`) and line."""
        return self._read(split, task)

    def place(self, task: str, file: int, line: int) -> str:
        """How messages name the row that came from part `file` at `line`."""
        name, by_line = self.manifest["tasks"][task]["parts"][file]
        return place(name, by_line, line)

    def _read(self, split: str, task: str | None) -> "datasets.Dataset":
        import datasets

        if split not in SPLITS:
            raise KeyError(f"there is no split {split!r}; splits are {', '.join(SPLITS)}")
        names = self.task_names if task is None else (task,)
        parts = [datasets.Dataset.from_file(str(self.path / name / f"{split}.arrow")) for name in names]
        return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


class TaskWriter:
    """Writes one task's rows, in the order given, and keeps what the manifest says of them."""

    def __init__(self, folder: Path, task: str) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._task = task
        self._stack = ExitStack()
        self._writers: dict[str, Any] = {}
        self._pending: dict[str, list[Row]] = {split: [] for split in SPLITS}
        self._counts: Counter[str] = Counter()
        self._targets: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        self._digest = hashlib.sha256()
        self._own_ids = array("Q")

    def __enter__(self) -> "TaskWriter":
        for split in SPLITS:
            sink = self._stack.enter_context(pa.OSFile(str(self._folder / f"{split}.arrow"), "wb"))
            self._writers[split] = self._stack.enter_context(pa.ipc.new_stream(sink, _SCHEMA))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for split in SPLITS:
                    self._flush(split)
        finally:
            self._stack.close()

    def add(self, row: Row, counted: bool) -> None:
        """Write a row; `counted` says that its target is a label, to be counted."""
        content = hashlib.blake2b(f"{self._task}\0{row.input}\0{row.target}".encode(), digest_size=8)
        if row.id:
            self._own_ids.append(id_number(row.id))
        else:
            row = Row(row.key, row.input, row.target, row.split, content.hexdigest(), row.file, row.line)
        self._digest.update(f"{row.split}\0{row.id}\0".encode() + content.digest())
        self._counts[row.split] += 1
        if counted:
            self._targets[row.split][row.target] += 1
        pending = self._pending[row.split]
        pending.append(row)
        if len(pending) >= _BATCH:
            self._flush(row.split)

    def _flush(self, split: str) -> None:
        rows = self._pending[split]
        if not rows:
            return
        _, inputs, targets, splits, ids, files, lines = zip(*rows, strict=True)
        columns = ([self._task] * len(rows), inputs, targets, ids, splits, files, lines)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        self._writers[split].write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        rows.clear()

    def repeated_ids(self) -> set[int]:
        """Hashes of ids that the source gave to more than one row."""
        ordered = sorted(self._own_ids)
        return {one for one, two in pairwise(ordered) if one == two}

    def summary(self) -> tuple[dict[str, int], dict[str, dict[str, int]], str]:
        """Rows and label counts of each split, and the digest of the rows."""
        label_counts = {split: dict(sorted(counts.items())) for split, counts in self._targets.items()}
        return {split: self._counts[split] for split in SPLITS}, label_counts, self._digest.hexdigest()


def id_number(row_id: str) -> int:
    """A 64-bit number for an id: what tells whether it was seen, at 8 bytes a row."""
    return int.from_bytes(hashlib.blake2b(row_id.encode(), digest_size=8).digest(), "big")
