"""Readers of JSONL, CSV, TSV and Parquet files: rows one after the other, with the line that each came from."""

import csv
import difflib
import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from io import BufferedReader, TextIOWrapper
from typing import IO, Any, cast
from zipfile import ZipFile

import orjson

from alter_core.data.places import File, remote_errors
from alter_core.errors import DataError
from alter_core.problems import Problems, kind_of, listed

MAX_LINE = 8 * 2**20  # bytes; a longer line is a file that is not JSONL, and would not fit memory
READ_AHEAD = 2**18  # bytes of a remote file that are asked for at a time
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")
_PACKAGES = {".zst": "zstandard", ".lz4": "lz4"}  # of endings that Python itself cannot read

Rows = Iterator[tuple[int, Mapping[str, Any]]]


def format_of(file: File, given: str | None) -> str:
    """The spec's format, or that of the file's ending. Raises DataError when the ending says nothing."""
    if kind := given or told_format(file):
        return kind
    raise DataError(
        f"{file.name}: its ending does not tell its format; set source > format to jsonl, csv, tsv or parquet"
    )


def told_format(file: File) -> str | None:
    """The format that the file's ending tells; None where it tells none."""
    name = file.base
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def read_file(file: File, kind: str, columns: Iterable[str], problems: Problems) -> Rows:
    """Rows of one file as (line or row number, mapping). What is wrong with a line goes to `problems`.

    `columns` are those that a Parquet file is read for. Raises DataError when the file as a whole cannot be read.
    """
    if kind == "parquet":
        return _parquet(file, columns)
    return _jsonl(file, problems) if kind == "jsonl" else _separated(file, "," if kind == "csv" else "\t", problems)


@contextmanager
def opened(file: File) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed by its ending."""
    import fsspec

    target = str(file.path) if file.path else cast(str, file.url)
    packed, compression = file.base.endswith(".zip"), _compression(file)
    if file.path:
        try:
            with fsspec.open(target, "rb", compression=compression) as stream:
                with _only_member(stream, file) if packed else nullcontext(stream) as rows:
                    yield rows
        except (gzip.BadGzipFile, EOFError, zlib.error, OSError) as error:
            raise DataError(
                f"{file.name}: cannot be read to its end: {_reason(error)}; fetch it again, or pack it again"
            ) from error
        except Exception as error:
            if isinstance(error, DataError) or not _is_decompression(error):
                raise
            raise DataError(
                f"{file.name}: is not in the format that its ending says: {_reason(error)}; rename it, or pack it again"
            ) from error
    else:
        with remote_errors(file.name), fsspec.open(target, "rb", compression=compression) as stream:
            with _only_member(stream, file) if packed else nullcontext(stream) as rows:
                # fsspec's own files have no readline with a limit.
                yield rows if packed or compression else cast(IO[bytes], BufferedReader(rows, READ_AHEAD))


def _compression(file: File) -> str | None:
    """fsspec's name of it; an archive is opened by `_only_member`. Raises DataError where a package is missing."""
    import fsspec

    ending = next((ending for ending in COMPRESSED if file.base.endswith(ending)), None)
    if ending is None or ending == ".zip":
        return None
    name: str | None = fsspec.utils.infer_compression(file.base)
    if name is None:
        raise DataError(
            f"{file.name}: reading {ending} needs a package: pip install {_PACKAGES[ending]}, then run again"
        )
    return name


@contextmanager
def _only_member(archive: IO[bytes], file: File) -> Iterator[IO[bytes]]:
    """The one file in a zip archive. Raises DataError when there are several, or none."""
    with ZipFile(archive) as packed:
        # Archives made on a Mac hold a second, hidden entry for each file.
        members = [m for m in packed.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            held = f"{len(members)} files ({listed([m.filename for m in members])})" if members else "no file"
            raise DataError(f"{file.name}: this archive holds {held}, where one is read; unpack it, and name its files")
        if members[0].flag_bits & 1:
            raise DataError(f"{file.name}: this archive is encrypted; unpack it, and name its file")
        with packed.open(members[0]) as stream:
            yield stream


def _is_decompression(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] in ("lzma", "_lzma", "bz2", "_bz2", "zipfile", "zstandard", "fsspec")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or "it is damaged"


def _lines(stream: IO[bytes], file: File) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(
                f"{file.name}:{number}: longer than {MAX_LINE // 2**20} MB; a JSONL file holds one row a line"
            )
        if number == 1:
            line = _without_mark(line, file)
        yield number, line


def _without_mark(line: bytes, file: File) -> bytes:
    """A UTF-8 byte order mark is dropped; one of UTF-16 or UTF-32 is refused."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        raise DataError(f"{file.name}:1: this is UTF-16 or UTF-32 text; convert it to UTF-8 (iconv -t utf-8)")
    return line.removeprefix(b"\xef\xbb\xbf")


def _jsonl(file: File, problems: Problems) -> Rows:
    loads = orjson.loads
    with opened(file) as stream:
        for number, line in _lines(stream, file):
            try:
                row = loads(line)
            except orjson.JSONDecodeError as error:
                if line.strip():
                    problems.add(f"{file.name}:{number}", _json_problem(line, error))
                continue
            if type(row) is not dict:
                hint = "; a JSON array must be written as one object a line" if isinstance(row, list) else ""
                problems.add(f"{file.name}:{number}", f"a row is a JSON object, got {kind_of(row)}{hint}")
                continue
            yield number, row


def _json_problem(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {wrong.start + 1} is not UTF-8; convert the file to UTF-8 (iconv -f latin1 -t utf-8)"
    if b"\0" in line:
        return "holds a NUL byte; the file is damaged or not text"
    if line.strip() in (b"{", b"["):
        return "not a whole JSON value; a JSONL file holds one object a line (jq -c '.[]' makes it so)"
    return f"not valid JSON: {error.msg} (column {error.colno}); mend the line, or remove it"


def _separated(file: File, separator: str, problems: Problems) -> Rows:
    csv.field_size_limit(MAX_LINE)
    with opened(file) as stream:
        head = _Checked(stream, file)
        text = TextIOWrapper(cast(Any, head), encoding="utf-8-sig", newline="")
        reader = csv.reader(text, delimiter=separator, strict=True)
        start = 1
        try:
            header = next(reader, None)
            if header is None:
                return
            _check_header(header, file, separator)
            start = reader.line_num + 1
            for values in reader:
                if len(values) != len(header):
                    if values:
                        problems.add(
                            f"{file.name}:{start}",
                            f"has {len(values)} fields where the header has {len(header)}; quote a field that holds "
                            f"{'a comma' if separator == ',' else 'a tab'} or a line end",
                        )
                elif separator == "\t" and _holds_rows(values):
                    problems.add(
                        f"{file.name}:{start}",
                        f"a quote opens here and closes in line {reader.line_num}, over what look like rows; where "
                        "quotes are plain text, put the field into quotes and double its own",
                    )
                else:
                    yield start, dict(zip(header, values, strict=True))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{file.name}:{start}: {error}; a quote that opens here is perhaps not closed") from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file.name}:{_bad_line(file, start)}: byte 0x{error.object[error.start]:02x} is not UTF-8; convert "
                "the file to UTF-8 (iconv -f latin1 -t utf-8)"
            ) from error
        finally:
            text.detach()


def _holds_rows(values: Sequence[str]) -> bool:
    """Whether a field's lines would be rows of as many fields: quotes are plain text there, and two of them met."""
    for place, value in enumerate(values):
        lines = value.split("\n")
        before, after = place + lines[0].count("\t"), len(values) - 1 - place + lines[-1].count("\t")
        if len(lines) > 1 and before == after == len(values) - 1:
            return True
    return False


class _Checked:
    """A byte stream that refuses UTF-16 at its start; TextIOWrapper needs these methods of it."""

    def __init__(self, stream: IO[bytes], file: File) -> None:
        self._stream = stream
        self._file = file
        self._first = True
        self.closed = False

    def read1(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size if size > 0 else 2**16)
        if self._first:
            self._first = False
            _without_mark(chunk, self._file)
        return chunk

    read = read1

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        return None


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
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{file.name}:1: the column {listed(twice)} stands twice in the header; rename one")
    if any("\0" in name for name in header):
        raise DataError(f"{file.name}:1: holds a NUL byte; the file is damaged or not text")
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


def _parquet(file: File, columns: Iterable[str]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(file) as stream:
        try:
            table = pq.ParquetFile(stream)
            names = table.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise DataError(missing_column(file.name, column, names))
            number = 0
            for batch in table.iter_batches(batch_size=4096, columns=[n for n in names if n in set(columns)]):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, pa.ArrowInvalid, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise DataError(
                f"{file.name}: is not a Parquet file that can be read: {reason}; write it again, or set source > "
                "format to what it is"
            ) from error


def missing_column(place: str, column: str, names: Iterable[str]) -> str:
    """The message for a column that is not there, with a close name where one is."""
    known = [str(name) for name in names]
    close = difflib.get_close_matches(column, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"{place}: there is no column {column!r}; {hint}it has {listed(known) or 'none'}. "
        "Name the source's column with source > columns"
    )
