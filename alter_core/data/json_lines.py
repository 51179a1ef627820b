"""Rows of a JSONL file: one object a line, numbers as their digits stand there."""

import json
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

import orjson

from alter_core.data.cells import WrittenNumber
from alter_core.data.mistaken import mistaken
from alter_core.data.packed import opened
from alter_core.data.places import File
from alter_core.data.rows import HEADER_AGAIN, Rows, is_header, repeated
from alter_core.errors import DataError
from alter_core.problems import Problems, kind_of, listed

MAX_LINE = 8 * 2**20  # bytes; a longer line is a file that is not JSONL, and would not fit memory
_MARK = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


class _Repeated(Exception):
    """An object with one key twice."""


def read_json_lines(file: File, problems: Problems) -> Rows:
    """What is wrong with a line goes to `problems`. Raises DataError when the file as a whole cannot be read."""
    with opened(file) as stream:
        check_head(stream, file, "jsonl")
        for number, line in _lines(stream, file):
            try:
                row = parsed(line)
            except orjson.JSONDecodeError as error:
                if line.strip():
                    problems.add(f"{file.name}:{number}", _wrong(line, error))
                continue
            except _Repeated as twice:
                problems.add(f"{file.name}:{number}", f"the key {twice} stands twice in an object; keep one")
                continue
            if type(row) is not dict:
                hint = "; a JSON array must be written as one object a line" if isinstance(row, list) else ""
                problems.add(f"{file.name}:{number}", f"a row is a JSON object, got {kind_of(row)}{hint}")
                continue
            if len(row) > 1 and is_header(row.values(), list(row)):
                problems.add(f"{file.name}:{number}", HEADER_AGAIN)
                continue
            yield number, row


def check_head(stream: BufferedReader, file: File, kind: str) -> None:
    """Raises DataError where the first bytes are those of UTF-16, or of something that holds no rows."""
    head = stream.peek(512)[:512]
    if head.startswith(_UTF16):
        raise DataError(f"{file.name}:1: this is UTF-16 or UTF-32 text; convert it to UTF-8 (iconv -t utf-8)")
    if what := mistaken(head, kind):
        raise DataError(f"{file.name}:1: {what}")


def parsed(line: bytes) -> Any:
    """A line's value. Raises orjson.JSONDecodeError, or _Repeated for a key that stands twice."""
    row = orjson.loads(line)
    # Where every quote belongs to a key or to a text, no key stands twice and no number was read: nothing is to tell.
    if type(row) is dict and line.count(b'"') == 4 * len(row) and all(type(value) is str for value in row.values()):
        return row
    try:
        return json.loads(line, object_pairs_hook=_once, parse_float=WrittenNumber, parse_int=WrittenNumber)
    except RecursionError:
        raise orjson.JSONDecodeError("nested too deep", line.decode(), 0) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := repeated([key for key, _ in pairs]):
        raise _Repeated(listed(twice))
    return dict(pairs)


def _lines(stream: BufferedReader, file: File) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(
                f"{file.name}:{number}: longer than {MAX_LINE // 2**20} MB; a JSONL file holds one row a line"
            )
        yield number, line.removeprefix(_MARK) if number == 1 else line


def _wrong(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {wrong.start + 1} is not UTF-8; convert the file to UTF-8 (iconv -f latin1 -t utf-8)"
    if line.startswith(_MARK):
        return "begins with a byte order mark, as where files were joined; take it out"
    if b"\0" in line:
        return "holds a NUL byte; the file is damaged or not text"
    if line.strip() in (b"{", b"["):
        return "not a whole JSON value; a JSONL file holds one object a line (jq -c '.[]' makes it so)"
    return f"not valid JSON: {error.msg} (column {error.colno}); mend the line, or remove it"
