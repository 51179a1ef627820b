"""One text for a cell, whatever door it comes through: files, folders of them, tables, queries, code."""

import datetime
import json
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alter_core.data.cells import CellError, cell_text
from alter_core.data.dataset import SPLITS
from alter_core.errors import DataError
from tests.data.conftest import MadeDomain

TEXTS = (
    *("000204", "175.50", "1.10", "1e3", "0x1F", "1_000", "+5", "-0", ".5", "Infinity", "9007199254740993"),
    *("NA", "N/A", "nan", "NULL", "null", "None", "-", "#N/A", "True", "false", "NO", "yes", "on", "~"),
    *("2024-01-01", "01/02/2024", "12:30", "2024-01-01T00:00:00Z", "12345678901234567890", "3.70"),
    *('say "so"', "a, b", "a;b", "it's", "=1+1", "\uff21\uff22", "x\u00b2"),
)
"""What libraries take for numbers, nothing, truth and dates, and no two of which are the same text."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _rows() -> list[dict[str, str]]:
    return [{"input": f"row {n} of it", "target": text} for n, text in enumerate(TEXTS)]


def _csv(made: MadeDomain, name: str, separator: str) -> None:
    made.write(name, pd.DataFrame(_rows()).to_csv(index=False, sep=separator, na_rep=""))


def _in_csv(made: MadeDomain) -> dict[str, Any]:
    _csv(made, "rows.csv", ",")
    return {"path": "rows.csv"}


def _in_tsv(made: MadeDomain) -> dict[str, Any]:
    _csv(made, "rows.tsv", "\t")
    return {"path": "rows.tsv"}


def _in_jsonl(made: MadeDomain) -> dict[str, Any]:
    made.write("rows.jsonl", _rows())
    return {"path": "rows.jsonl"}


def _in_parquet(made: MadeDomain) -> dict[str, Any]:
    pq.write_table(pa.Table.from_pylist(_rows()), made.folder / "rows.parquet")
    return {"path": "rows.parquet"}


def _in_sql(made: MadeDomain) -> dict[str, Any]:
    with sqlite3.connect(made.folder / "rows.db") as connection:
        connection.execute("create table rows (input text, target text)")
        connection.executemany("insert into rows values (:input, :target)", _rows())
    return {"sql": "sqlite:///rows.db", "query": "select input, target from rows"}


def _in_code(made: MadeDomain) -> dict[str, Any]:
    made.write("source.py", f"import json\ndef rows():\n    yield from json.loads({json.dumps(_rows())!r})\n")
    return {"callable": "source.py:rows"}


def _in_a_folder(kind: str) -> Callable[[MadeDomain], dict[str, Any]]:
    def write(made: MadeDomain) -> dict[str, Any]:
        name = f"hub/train.{kind}"
        (made.folder / "hub").mkdir()
        if kind in ("csv", "tsv"):
            _csv(made, name, "," if kind == "csv" else "\t")
        elif kind == "parquet":
            pq.write_table(pa.Table.from_pylist(_rows()), made.folder / name)
        else:
            made.write(name, _rows())
        return {"hub": "hub"}

    return write


def _in_a_saved_data_set(made: MadeDomain) -> dict[str, Any]:
    datasets.Dataset.from_list(_rows()).save_to_disk(str(made.folder / "saved"))
    return {"hub": "saved"}


DOORS = {
    "CSV": _in_csv,
    "TSV": _in_tsv,
    "JSONL": _in_jsonl,
    "Parquet": _in_parquet,
    "SQL": _in_sql,
    "code": _in_code,
    **{f"a folder of {kind}": _in_a_folder(kind) for kind in ("csv", "tsv", "jsonl", "parquet")},
    "a saved data set": _in_a_saved_data_set,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_text_is_the_same_text_through_every_door(made: MadeDomain, door: str) -> None:
    dataset = made.ingest({"type": "generation", "source": DOORS[door](made)})
    found = {row["input"]: row["target"] for split in SPLITS for row in dataset.rows(split)}
    assert found == {row["input"]: row["target"] for row in _rows()}


@pytest.mark.parametrize("door", DOORS)
def test_a_filter_compares_with_that_same_text(made: MadeDomain, door: str) -> None:
    source = DOORS[door](made) | {"where": {"target": ["NO", "000204", "1.10", "2024-01-01", "True"]}}
    dataset = made.ingest({"type": "generation", "source": source})
    found = {row["target"] for split in SPLITS for row in dataset.rows(split)}
    assert found == {"NO", "000204", "1.10", "2024-01-01", "True"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(3.7), "3.7"),
        (np.float16(3.7), "3.7"),
        (3.7, "3.7"),
        (np.float64(0.1), "0.1"),
        (2, "2"),
        (np.int64(-7), "-7"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (True, "true"),
        (np.bool_(False), "false"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1000"),
        (datetime.date(2024, 1, 31), "2024-01-31"),
        (datetime.datetime(2024, 1, 31, 12, 30), "2024-01-31T12:30:00"),
        (pd.Timestamp("2024-01-31"), "2024-01-31T00:00:00"),
        (datetime.time(12, 30), "12:30:00"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (np.str_("a"), "a"),
    ],
)
def test_a_value_of_code_has_the_shortest_text_of_its_own_type(value: Any, text: str) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, float("inf"), 2.0**53, np.float32(2**24), np.float16(2048),
     Decimal("NaN"), b"bytes", [1], {"a": 1}, datetime.timedelta(1), 1j, np.array([1, 2])],
)  # fmt: skip
def test_what_has_no_text_of_its_own_is_refused(value: Any) -> None:
    with pytest.raises(CellError):
        cell_text(value)


PARQUET = [
    (pa.array([3.7, 4.1], pa.float32()), ["3.7", "4.1"]),
    (pa.array(np.array([3.7, 4.1], "float16")), ["3.7", "4.1"]),
    (pa.array([0.1, 0.3], pa.float64()), ["0.1", "0.3"]),
    (pa.array([3.7, 4.1], pa.float32()).dictionary_encode(), ["3.7", "4.1"]),
    (pa.array([Decimal("1.10"), Decimal("22.00")], pa.decimal128(10, 2)), ["1.10", "22.00"]),
    (pa.array([Decimal("1.10"), Decimal("22.00")], pa.decimal256(50, 2)), ["1.10", "22.00"]),
    (pa.array([2**64 - 1, 5], pa.uint64()), ["18446744073709551615", "5"]),
    (pa.array([9007199254740993, 5], pa.int64()), ["9007199254740993", "5"]),
    (pa.array([True, False]), ["true", "false"]),
    (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
    (pa.array([datetime.date(2024, 1, 31), datetime.date(2025, 1, 1)]), ["2024-01-31", "2025-01-01"]),
    (pa.array([0, 1], pa.timestamp("ms")), ["1970-01-01T00:00:00", "1970-01-01T00:00:00.001000"]),
    (pa.array([0, 1000], pa.timestamp("ns")), ["1970-01-01T00:00:00", "1970-01-01T00:00:00.000001"]),
]


@pytest.mark.parametrize(("column", "texts"), PARQUET, ids=lambda value: str(getattr(value, "type", "")))
def test_a_typed_column_has_the_shortest_text_of_its_own_type(made: MadeDomain, column: pa.Array, texts: Any) -> None:
    table = pa.table({"input": ["the first", "the second"], "target": column})
    pq.write_table(table, made.folder / "rows.parquet")
    dataset = made.ingest({"type": "extraction", "source": {"path": "rows.parquet"}})
    found = {row["input"]: row["target"] for split in SPLITS for row in dataset.rows(split)}
    assert [found["the first"], found["the second"]] == texts


def test_a_filter_on_short_floats_compares_with_their_shortest_text(made: MadeDomain) -> None:
    scores = pa.array([0.9, 0.1, 0.5] * 20, pa.float32())
    pq.write_table(pa.table({"input": [f"a {n}" for n in range(60)], "target": ["x"] * 60, "score": scores}),
                   made.folder / "rows.parquet")  # fmt: skip
    source = {"path": "rows.parquet", "where": {"score": [0.9, 0.5]}}
    assert made.ingest({"type": "generation", "source": source}).manifest["tasks"]["task"]["read"] == 40


def test_numbers_of_json_are_the_digits_that_stand_there(made: MadeDomain) -> None:
    written = ["1.10", "12345678901234567890123", "0.1234567890123456789", "1E3", "-0.0", "204"]
    made.write("rows.jsonl", "".join(f'{{"input": "row {n}", "target": {text}}}\n' for n, text in enumerate(written)))
    dataset = made.ingest({"type": "generation"})
    assert {row["target"] for split in SPLITS for row in dataset.rows(split)} == set(written)


TWICE = {
    "CSV": ("rows.csv", b"input,target,input\na,b,c\n", "'input' stands twice"),
    "TSV": ("rows.tsv", b"input\ttarget\ttarget\na\tb\tc\n", "'target' stands twice"),
    "a column that nothing names": ("rows.csv", b"input,target,note,note\na,b,c,d\n", "'note' stands twice"),
    "JSONL": ("rows.jsonl", b'{"input": "a", "target": "b", "target": "c"}\n', "rows.jsonl:1: the key 'target' stands"),
    "JSONL within": (
        "rows.jsonl",
        b'{"input": "a", "target": "b", "x": {"y": 1, "y": 2}}\n',
        "the key 'y' stands twice",
    ),
    "JSONL with numbers": (
        "rows.jsonl",
        b'{"input": "a", "target": 1, "target": 1}\n',
        "the key 'target' stands twice",
    ),
    "JSONL with blanks": (
        "rows.jsonl",
        b'{"input" : "a", "input":"b", "target":"c"}\n',
        "the key 'input' stands twice",
    ),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_name_that_stands_twice_is_refused(made: MadeDomain, case: str) -> None:
    name, content, says = TWICE[case]
    made.write(name, content)
    with pytest.raises(DataError) as told:
        made.ingest({"type": "generation", "source": {"path": name}})
    assert says in str(told.value), str(told.value)


def test_a_name_that_stands_twice_in_a_table_or_a_query_is_refused(made: MadeDomain) -> None:
    table = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["input", "target", "input"]
    )
    pq.write_table(table, made.folder / "rows.parquet")
    _in_sql(made)
    query = {"sql": "sqlite:///rows.db", "query": "select input, target, target from rows"}
    for source in ({"path": "rows.parquet"}, query):
        with pytest.raises(DataError) as told:
            made.ingest({"type": "generation", "source": source})
        assert "twice" in str(told.value), str(told.value)


def test_a_repeated_column_in_a_folder_of_csv_is_refused(made: MadeDomain) -> None:
    made.write("hub/train.csv", "input,target,input\na,b,c\n")
    with pytest.raises(DataError) as told:
        made.ingest({"type": "generation", "source": {"hub": "hub"}})
    assert "hub/train.csv:1: the column 'input' stands twice" in str(told.value)


def test_a_folder_says_which_file_and_line_is_wrong(made: MadeDomain) -> None:
    made.write("hub/train.csv", "input,target\na,b\nc\n")
    with pytest.raises(DataError) as told:
        made.ingest({"type": "generation", "source": {"hub": "hub"}})
    assert "hub/train.csv:3: has 1 fields where the header has 2" in str(told.value)


def test_splits_of_a_folder_are_found_as_the_library_finds_them(made: MadeDomain) -> None:
    for split, first in (("train", 0), ("test", 100)):
        rows = "".join(f"row {n},0{n}\n" for n in range(first, first + 50))
        made.write(f"hub/{split}.csv", "input,target\n" + rows)
    task = {"type": "generation", "source": {"hub": "hub"}, "test": {"hub": "hub", "split": "test"}}
    rows = made.ingest(task).manifest["tasks"]["task"]["rows"]
    assert (rows["train"] + rows["validation"], rows["test"]) == (50, 50)


def test_a_card_that_asks_for_another_way_of_reading_is_refused(made: MadeDomain) -> None:
    made.write("hub/train.csv", "input;target\na;b\n")
    card = "---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  sep: ';'\n---\n"
    made.write("hub/README.md", card)
    with pytest.raises(DataError) as told:
        made.ingest({"type": "generation", "source": {"hub": "hub"}})
    assert "its card asks for another way of reading (sep)" in str(told.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "saved"])
def test_label_numbers_are_their_names_where_the_data_set_says_them(made: MadeDomain, kind: str) -> None:
    features = datasets.Features(
        {"input": datasets.Value("string"), "target": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict(
        {"input": [f"a {n}" for n in range(60)], "target": [0, 1] * 30}, features=features
    )
    (made.folder / "hub").mkdir()
    card = ("---\ndataset_info:\n  features:\n  - name: input\n    dtype: string\n  - name: target\n    dtype:\n"
            "      class_label:\n        names:\n          '0': 'no'\n          '1': 'yes'\n---\n")  # fmt: skip
    if kind == "saved":
        data.save_to_disk(str(made.folder / "hub"))
    elif kind == "parquet":
        data.to_parquet(str(made.folder / "hub/train.parquet"))
    else:
        made.write("hub/README.md", card)
        rows = [(f"a {n}", n % 2) for n in range(60)]
        lines = [f"{i},{t}" if kind == "csv" else json.dumps({"input": i, "target": t}) for i, t in rows]
        made.write(f"hub/train.{kind}", "\n".join((["input,target"] if kind == "csv" else []) + lines) + "\n")
    assert made.ingest({"source": {"hub": "hub"}}).labels == {"task": ("no", "yes")}
