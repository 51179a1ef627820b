"""One door to every kind of source: files, hub data sets, databases, callables."""

from collections.abc import Iterator
from dataclasses import dataclass

from alter_core.data.callables import Callables
from alter_core.data.files import format_of, read_file
from alter_core.data.places import Roots, find_files
from alter_core.data.rows import Rows, without_headers
from alter_core.problems import Problems, place
from alter_core.spec import SourceSpec


@dataclass(frozen=True)
class Part:
    """A stretch of a source whose rows are numbered: a file, a query, a call."""

    name: str
    by_line: bool
    """Rows are counted by line of the file; otherwise from 1."""
    rows: Rows

    def place(self, number: int) -> str:
        return place(self.name, self.by_line, number)


def open_source(
    source: SourceSpec, columns: tuple[str, ...], roots: Roots, callables: Callables, problems: Problems
) -> Iterator[Part]:
    """The source's parts, in order; each one's rows are read before the next is asked for.

    Raises DataError when the source cannot be read; single rows that are wrong go to `problems`.
    """
    for part in _parts(source, columns, roots, callables, problems):
        # A file's header is looked for line by line where it is read; elsewhere it is a row like any other.
        yield part if part.by_line else Part(part.name, False, without_headers(part.rows, part.name, problems))


def _parts(
    source: SourceSpec, columns: tuple[str, ...], roots: Roots, callables: Callables, problems: Problems
) -> Iterator[Part]:
    if source.path is not None:
        for file in find_files(source.path, roots):
            kind = format_of(file, source.format)
            yield Part(file.name, kind != "parquet", read_file(file, kind, columns, problems))
    elif source.callable is not None:
        yield Part(source.callable, False, callables.rows(source.callable, source.arguments))
    elif source.sql is not None:
        from alter_core.data.sql import query_rows, shown_database

        yield Part(shown_database(source.sql), False, query_rows(source, roots))
    else:
        from alter_core.data.hub import hub_parts

        for name, by_line, rows in hub_parts(source, columns, roots, problems):
            yield Part(name, by_line, rows)
