"""Rows in order of their hash, however many there are: sorted runs on disk, merged as a stream."""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

RUN_ROWS = 100_000
RUN_CHARACTERS = 64 * 2**20
_BATCH = 2000


class Row(NamedTuple):
    """A row on its way to disk. Order is by content alone, so that the order of files changes nothing."""

    key: bytes
    """16 bytes of the case-folded input."""
    input: str
    target: str
    split: str
    id: str
    file: int
    """Number of the source part that it came from."""
    line: int


_SCHEMA = pa.schema(
    [
        ("key", pa.binary(16)),
        ("input", pa.string()),
        ("target", pa.string()),
        ("split", pa.string()),
        ("id", pa.string()),
        ("file", pa.int32()),
        ("line", pa.int64()),
    ]
)


class SortedRows:
    """Takes rows in any order and gives them back sorted. Memory holds one run, whatever their number."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._runs: list[Path] = []
        self._rows: list[Row] = []
        self._characters = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._characters += len(row.input) + len(row.target)
        if len(self._rows) >= RUN_ROWS or self._characters >= RUN_CHARACTERS:
            self._spill()

    def __iter__(self) -> Iterator[Row]:
        self._rows.sort()
        if not self._runs:
            yield from self._rows
        else:
            yield from heapq.merge(*(_read(run) for run in self._runs), self._rows)

    def _spill(self) -> None:
        self._rows.sort()
        path = self._scratch / f"run-{len(self._runs):05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as writer:
            for start in range(0, len(self._rows), _BATCH):
                columns = zip(*self._rows[start : start + _BATCH], strict=True)
                arrays = [pa.array(c, field.type) for c, field in zip(columns, _SCHEMA, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self._runs.append(path)
        self._rows = []
        self._characters = 0


def _read(path: Path) -> Iterator[Row]:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield from map(Row._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))
