"""Files of rows: which format one has, and its rows one after the other, with the line that each came from."""

from collections.abc import Iterable

from alter_core.data.json_lines import read_json_lines
from alter_core.data.packed import COMPRESSED
from alter_core.data.parquet import read_parquet
from alter_core.data.places import File
from alter_core.data.rows import Rows
from alter_core.data.separated import read_separated
from alter_core.errors import DataError
from alter_core.problems import Problems

ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def format_of(file: File, given: str | None) -> str:
    """The spec's format, or that of the file's ending. Raises DataError when the ending says nothing."""
    if kind := given or format_of_name(file):
        return kind
    raise DataError(
        f"{file.name}: its ending does not tell its format; set source > format to jsonl, csv, tsv or parquet"
    )


def format_of_name(file: File) -> str | None:
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
        return read_parquet(file, columns)
    return read_json_lines(file, problems) if kind == "jsonl" else read_separated(file, kind, problems)
