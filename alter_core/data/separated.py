"""Rows of CSV and TSV files: every cell is the text that stands there, and no line is taken for what it is not."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from alter_core.data.json_lines import MAX_LINE, check_head
from alter_core.data.packed import opened
from alter_core.data.places import File
from alter_core.data.quotes import Swallowed
from alter_core.data.rows import HEADER_AGAIN, MARK, Rows, is_header, repeated
from alter_core.errors import DataError
from alter_core.problems import Problems, listed

SEPARATORS = {"csv": ",", "tsv": "\t"}
_NAMES = {"csv": "a comma", "tsv": "a tab"}


def read_separated(file: File, kind: str, problems: Problems) -> Rows:
    """What is wrong with a row goes to `problems`. Raises DataError when the file as a whole cannot be read."""
    separator = SEPARATORS[kind]
    swallowed = Swallowed(separator)
    with _values(file, kind) as rows:
        header = next(rows, (0, 0, None))[2]
        if header is None:
            return
        _check_header(header, file, separator)
        blank = 0
        for start, end, values in rows:
            place = f"{file.name}:{start}"
            if not values:
                blank = blank or start
                continue
            if blank and len(header) == 1:
                problems.add(
                    f"{file.name}:{blank}", "is blank, and the one column would be empty; fill it, or take it out"
                )
            blank = 0
            if values[0].startswith(MARK) or is_header(values, header):
                joined = is_header(values, header)
                mark = "begins with a byte order mark, as where files were joined; take it out"
                problems.add(place, HEADER_AGAIN if joined else mark)
            elif len(values) != len(header):
                problems.add(
                    place,
                    f"has {len(values)} fields where the header has {len(header)}; quote a field that holds "
                    f"{_NAMES[kind]} or a line end",
                )
            else:
                if end > start:
                    swallowed.look_at(start, end, values)
                yield start, dict(zip(header, values, strict=True))
    if swallowed.suspects:
        with _values(file, kind) as rows:
            next(rows)
            swallowed.report((values for _, _, values in rows), file.name, problems)


@contextmanager
def _values(file: File, kind: str) -> Iterator[Iterator[tuple[int, int, list[str]]]]:
    """First line, last line and cells of every row, the header's too. Raises DataError for what is no CSV in UTF-8."""
    csv.field_size_limit(MAX_LINE)
    with opened(file) as stream:
        check_head(stream, file, kind)
        text = TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            yield _read(text, file, SEPARATORS[kind])
        finally:
            text.detach()


def _read(text: TextIOWrapper, file: File, separator: str) -> Iterator[tuple[int, int, list[str]]]:
    reader: Any = csv.reader(text, delimiter=separator, strict=True)
    start = 1
    try:
        for values in reader:
            yield start, reader.line_num, values
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file.name}:{start}: {error}; a quote that opens here is perhaps not closed") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name}:{_bad_line(file, start)}: byte 0x{error.object[error.start]:02x} is not UTF-8; convert "
            "the file to UTF-8 (iconv -f latin1 -t utf-8)"
        ) from error


def _bad_line(file: File, start: int) -> int:
    """The line that is not UTF-8, found by a second look at the bytes."""
    with opened(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return start


def _check_header(header: list[str], file: File, separator: str) -> None:
    if twice := repeated(header):
        raise DataError(f"{file.name}:1: the column {listed(twice)} stands twice in the header; rename one")
    if any("\0" in name for name in header):
        raise DataError(f"{file.name}:1: holds a NUL byte; the file is damaged or not text")
    if any(separator in line and len(name.splitlines()) > 1 for name in header for line in name.splitlines()):
        raise DataError(
            f"{file.name}:1: a quote in the header closes in a later line, over rows; double it, or take it out"
        )
    other = "\t" if separator == "," else ","
    if len(header) == 1 and other in header[0]:
        kind = "tsv" if other == "\t" else "csv"
        raise DataError(
            f"{file.name}:1: the header has one column, as of a {kind} file: set source > format: {kind}, or its ending"
        )
    if len(header) == 1 and ";" in header[0]:
        raise DataError(
            f"{file.name}:1: the header has one column and holds ';': this file is separated by semicolons; write it "
            f"with {'commas' if separator == ',' else 'tabs'}"
        )
