"""Rows as every source gives them, and what is told of them wherever they come from."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from alter_core.data.cells import Cells
from alter_core.problems import Problems, did_you_mean, listed

Rows = Iterator[tuple[int, Cells]]
"""(number, column -> value): numbers are lines of a file, or count from 1."""

MARK = "\ufeff"
"""The byte order mark, which may stand at the very beginning of a file and nowhere else."""
_AROUND = 3  # characters of a mark and of blanks around a name
HEADER_AGAIN = "is the header again, as where files were joined; take the line out"


def is_header(values: Collection[Any], names: Sequence[str]) -> bool:
    """Whether a row's values are its columns' names, in any order and case."""
    longest = max(map(len, names), default=0) + _AROUND
    if len(values) != len(names) or not all(isinstance(value, str) and len(value) <= longest for value in values):
        return False  # nearly every row, at little cost
    said = [value.strip().removeprefix(MARK).casefold() for value in values]
    return sorted(said) == sorted(name.strip().casefold() for name in names)


def without_headers(rows: Rows, place: str, problems: Problems) -> Rows:
    """Rows but for those that repeat the columns' names, which go to `problems`: a header that became data."""
    for number, row in rows:
        if len(row) > 1 and is_header(row.values(), list(row)):
            problems.add(f"{place}, row {number}", HEADER_AGAIN.replace("the line", "the row"))
        else:
            yield number, row


def missing_column(place: str, column: str, names: Iterable[str]) -> str:
    """The message for a column that is not there, with a close name where one is."""
    known = [str(name) for name in names]
    return (
        f"{place}: there is no column {column!r}{did_you_mean(column, known) or ';'} it has {listed(known) or 'none'}. "
        "Name the source's column with source > columns"
    )


def repeated(names: Sequence[str]) -> list[str]:
    """Names that more than one column has: whose values are meant cannot be told."""
    return sorted({name for name in names if names.count(name) > 1})
