"""Whatever texts a real writer puts into a file come back equal, or the file is refused with its name and line."""

import csv
import io
import json
import re
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alter_core.data.callables import Callables
from alter_core.data.places import Roots
from alter_core.data.rows import Rows
from alter_core.data.sources import open_source
from alter_core.errors import DataError
from alter_core.problems import Problems, TooManyProblems
from alter_core.spec import SourceSpec

Texts = list[dict[str, str]]
NUMBERS = st.sampled_from(
    ["000204", "1.10", "1e3", "NA", "NULL", "nan", "true", "False", "NO", "2024-01-01", "0x1F", ""]
)
LOOK_ALIKES = st.sampled_from(
    ["\uff21", "\u0410", "A\u200b", "\ufeffa", "\u00a0", "a\u0301", "\u2126", "\u2028", "\x85"]
)
QUOTES = st.sampled_from(['"', '""', "'", ",", ";", "\t", "\n", "\r\n", "\r", "\\", " ", "  ", '",', '\n"'])
PIECES = st.lists(st.text(max_size=4) | NUMBERS | LOOK_ALIKES | QUOTES, max_size=5).map("".join)
TEXTS = (st.text(max_size=20) | NUMBERS | PIECES).filter(lambda text: "\0" not in text)
ROWS = st.lists(st.fixed_dictionaries({"input": TEXTS, "target": TEXTS}), min_size=1, max_size=8)


def _csv(path: Path, rows: Texts, separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["input", "target"], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def _pandas(path: Path, rows: Texts, separator: str = ",") -> None:
    pd.DataFrame(rows).to_csv(path, index=False, sep=separator)


def _arrow(path: Path, rows: Texts) -> None:
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)


def _jsonl(path: Path, rows: Texts) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=len(row["input"]) % 2 == 0) + "\n" for row in rows), "utf-8")


def _pandas_jsonl(path: Path, rows: Texts) -> None:
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)


def _parquet(path: Path, rows: Texts) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def _sqlite(path: Path, rows: Texts) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table rows (input text, target text)")
        connection.executemany("insert into rows values (:input, :target)", rows)
    connection.close()


WRITERS: dict[str, tuple[str, Callable[[Path, Texts], None]]] = {
    "csv": ("rows.csv", _csv),
    "csv, with tabs": ("rows.tsv", lambda path, rows: _csv(path, rows, "\t")),
    "pandas": ("rows.csv", _pandas),
    "pandas, with tabs": ("rows.tsv", lambda path, rows: _pandas(path, rows, "\t")),
    "pyarrow": ("rows.csv", _arrow),
    "json": ("rows.jsonl", _jsonl),
    "pandas' JSON": ("rows.jsonl", _pandas_jsonl),
    "Parquet": ("rows.parquet", _parquet),
    "SQLite": ("rows.db", _sqlite),
}


def _source(name: str) -> SourceSpec:
    if name.endswith(".db"):
        return SourceSpec(sql=f"sqlite:///{name}", query="select input, target from rows")
    return SourceSpec(path=name)


def _read(name: str, folder: Path) -> Texts | str:
    """The rows, or the message that refuses them."""
    problems = Problems()
    rows: list[dict[str, Any]] = []
    try:
        for part in open_source(_source(name), ("input", "target"), Roots(folder), Callables(folder), problems):
            part_rows: Rows = part.rows
            rows += [dict(row) for _, row in part_rows]
    except TooManyProblems:
        pass
    except DataError as error:
        return str(error)
    return "\n".join(problems.lines) or rows


@pytest.mark.parametrize("writer", WRITERS)
@given(rows=ROWS)
def test_what_a_writer_writes_is_what_is_read(writer: str, rows: Texts) -> None:
    name, write = WRITERS[writer]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name, rows)
        read = _read(name, Path(folder))
    if isinstance(read, str):
        assert re.search(rf"{re.escape(name)}(:\d+:|, row \d+:)", read), read
    else:
        assert read == rows


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**23), max_value=2.0**23)


@given(values=st.lists(FLOATS, min_size=1, max_size=5))
def test_a_short_float_has_a_text_that_is_that_float_again_and_none_is_shorter(values: list[float]) -> None:
    import numpy as np

    from alter_core.data.cells import cell_text

    stream = io.BytesIO()
    pq.write_table(pa.table({"input": ["a"] * len(values), "target": pa.array(values, pa.float32())}), stream)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.parquet").write_bytes(stream.getvalue())
        read = _read("rows.parquet", Path(folder))
    assert not isinstance(read, str)
    texts = [cell_text(row["target"]) for row in read]
    assert [float(np.float32(text)) for text in texts] == values
    assert all(len(text) <= len(repr(value)) for text, value in zip(texts, values, strict=True))
