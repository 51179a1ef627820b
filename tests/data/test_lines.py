"""No row is swallowed, and no line passes for a row: told with file and line, or read."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alter_core.data import packed
from alter_core.data.dataset import SPLITS
from alter_core.errors import DataError
from tests.data.conftest import MadeDomain, good_rows, jsonl

PLAIN = "".join(f"review {n} of the set,{('good', 'bad')[n % 2]}\n" for n in range(60))
MARK = "\ufeff"


def _swallowing(separator: str, opens: int, closes: int) -> str:
    """Rows, of which one begins with a plain quote and a later one ends in one."""
    lines = [f"review {n} of the set{separator}{('good', 'bad')[n % 2]}" for n in range(60)]
    lines[opens] = f'"Superb value{separator}good'
    lines[closes] = f'the screen is 15"{separator}bad'
    return f"input{separator}target\n" + "\n".join(lines) + "\n"


WRONG = {
    "quotes many lines apart": ("rows.csv", _swallowing(",", 10, 40), "rows.csv:12: a quote opens here and closes in"),
    "quotes in neighbouring lines": ("rows.csv", _swallowing(",", 10, 11), "rows.csv:12: a quote opens"),
    "quotes at the file's beginning": ("rows.csv", _swallowing(",", 0, 3), "rows.csv:2: a quote opens here and closes"),
    "quotes in a TSV": ("rows.tsv", _swallowing("\t", 5, 9), "rows.tsv:7: a quote opens here and closes in line 11"),
    "a quote in the last column": (
        "rows.csv",
        'target,input\ngood,a\nbad,b\ngood,"Superb\nbad,d\ngood,15"\n' + "good,x\nbad,y\n" * 20,
        "rows.csv:4: a quote opens here and closes in line 6",
    ),
    "a quote in the header": ("rows.csv", 'input,"target\na,b\nc,d"\n', "rows.csv:1: a quote in the header closes"),
    "the header again": ("rows.csv", "input,target\n" + PLAIN + "input,target\na,b\n", "rows.csv:62: is the header"),
    "the header again, with a mark": (
        "rows.csv", f"{MARK}input,target\n{PLAIN}{MARK}input,target\na,b\n", "rows.csv:62: is the header again"),
    "the header again, in another order": (
        "rows.csv", "input,target\n" + PLAIN + "target,input\nb,a\n", "rows.csv:62: is the header again"),
    "the header again in a TSV": (
        "rows.tsv", "input\ttarget\na\tb\ninput\ttarget\nc\td\n", "rows.tsv:3: is the header again"),
    "the header again, in another case": ("rows.csv", "input,target\na,b\nInput,Target\n", "rows.csv:3: is the header"),
    "a header that became JSON": (
        "rows.jsonl", '{"input": "input", "target": "target"}\n', "rows.jsonl:1: is the header again"),
    "a mark in the middle": ("rows.csv", f"input,target\na,b\n{MARK}c,d\n", "rows.csv:3: begins with a byte order"),
    "a mark in the middle of JSONL": (
        "rows.jsonl", jsonl(good_rows(3)) + b"\xef\xbb\xbf" + jsonl(good_rows(3)), "rows.jsonl:4: begins with a byte"),
    "a web page as CSV": ("rows.csv", "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "rows.csv:1: is a web"),
    "a web page as JSONL": ("rows.jsonl", "\n <html>\n<head>\n</html>\n", "rows.jsonl:1: is a web page"),
    "a web page as Parquet": ("rows.parquet", "<html></html>", "rows.parquet: is a web page"),
    "an error in XML": ("rows.tsv", '<?xml version="1.0"?><Error/>', "rows.tsv:1: is a web page (HTML or XML)"),
    "a pointer of Git LFS": (
        "rows.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    "CSV in .jsonl": ("rows.jsonl", "input,target\na,b\n", "rows.jsonl:1: begins as a csv file does"),
    "TSV in .jsonl": ("rows.jsonl", "input\ttarget\na\tb\n", "rows.jsonl:1: begins as a tsv file does"),
    "JSONL in .csv": ("rows.csv", jsonl(good_rows(3)), "rows.csv:1: holds JSON; set source > format: jsonl"),
    "a JSON array in .csv": ("rows.csv", '[\n {"input": "a"}\n]\n', "rows.csv:1: holds JSON"),
    "gzip without its ending": ("rows.csv", gzip.compress(b"input,target\n"), "rows.csv:1: is packed with gzip"),
    "a spreadsheet": ("rows.csv", b"PK\x03\x04rest", "rows.csv:1: is an archive or a spreadsheet"),
    "Parquet in .csv": ("rows.csv", b"PAR1rest", "rows.csv:1: is a Parquet file; set source > format: parquet"),
    "a database": ("rows.csv", b"SQLite format 3\0rest", "rows.csv:1: is a SQLite database"),
    "a plain file with the ending of gzip": ("rows.csv.gz", b"input,target\na,b\n", "rows.csv.gz: cannot be read: not"),
    "a plain file with the ending of zstd": ("rows.csv.zst", b"input,target\na,b\n", "rows.csv.zst: cannot be read:"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_row_is_told_with_file_and_line(made: MadeDomain, case: str) -> None:
    name, content, says = WRONG[case]
    made.write(name, content)
    with pytest.raises(DataError) as told:
        made.ingest({"type": "generation", "source": {"path": name}})
    assert says in str(told.value), str(told.value)


def test_a_header_that_became_data_is_told_where_there_are_no_lines(made: MadeDomain) -> None:
    pq.write_table(pa.table({"input": ["a", "input"], "target": ["b", "target"]}), made.folder / "rows.parquet")
    with pytest.raises(DataError) as told:
        made.ingest({"type": "generation", "source": {"path": "rows.parquet"}})
    assert "rows.parquet, row 2: is the header again" in str(told.value)


FINE = {
    "prose over several lines": 'input,target\n"Hello,\nI am here, and well.\nBye",yes\n',
    "an address": 'input,target\n"12 High Street, Flat 2\nLondon",yes\n',
    "code": 'input,target\n"def f(a, b):\n    return a, b\n",yes\n',
    "a quoted quote": 'input,target\n"say ""so"", he said",yes\n',
    "a line end in every row": "input,target\n" + "".join(f'"first {n}\nsecond {n}",yes\n' for n in range(20)),
}


@pytest.mark.parametrize("case", FINE)
def test_a_cell_over_several_lines_is_one_cell(made: MadeDomain, case: str) -> None:
    again = "".join(FINE[case].partition("\n")[2] for _ in range(4))
    made.write("rows.csv", FINE[case] + again + "".join(f"plain {n},no\n" for n in range(20)))
    task = made.ingest({"type": "generation", "source": {"path": "rows.csv"}}).manifest["tasks"]["task"]
    assert task["read"] == 5 * FINE[case].count('",yes\n') + 20
    assert task["notes"] == []


def test_a_cell_that_may_be_rows_is_warned_of_with_its_lines(made: MadeDomain) -> None:
    rows = [f"question {n},answer {n}" for n in range(60)]
    rows[10], rows[30] = '"Superb question,answer 10', 'question 30 of 15",answer 30'
    made.write("rows.csv", "input,target\n" + "\n".join(rows) + "\n")
    report = made.validate({"type": "generation", "source": {"path": "rows.csv"}})
    [item] = [item for item in report.wrong("warn") if item.check == "fields over several lines"]
    assert item.rows == ("rows.csv:12: a quote opens here and closes in line 32",)


def _zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows", content)
    return sink.getvalue()


class _Kept(io.BytesIO):
    def close(self) -> None:
        """pyarrow closes what it writes to."""


def _frames(kind: str, *parts: bytes) -> bytes:
    done = b""
    for part in parts:
        sink = _Kept()
        with pa.CompressedOutputStream(sink, kind) as stream:
            stream.write(part)
        done += sink.getvalue()
    return done


PACKED = {
    ".gz": lambda *parts: b"".join(map(gzip.compress, parts)),
    ".bz2": lambda *parts: b"".join(map(bz2.compress, parts)),
    ".xz": lambda *parts: b"".join(map(lzma.compress, parts)),
    ".zst": lambda *parts: _frames("zstd", *parts),
    ".lz4": lambda *parts: _frames("lz4", *parts),
    ".zip": lambda *parts: _zipped(b"".join(parts)),
}


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_every_row_of_every_frame_of_a_packed_file_is_read(made: MadeDomain, ending: str, name: str) -> None:
    rows = good_rows(200)
    lines = jsonl(rows) if name.endswith("jsonl") else ("input,target\n" + "".join(
        f"{row['input']},{row['target']}\n" for row in rows)).encode()  # fmt: skip
    made.write(name + ending, PACKED[ending](lines[:3000], lines[3000:6000], lines[6000:]))
    dataset = made.ingest({"source": {"path": name + ending}})
    assert {row["input"] for split in SPLITS for row in dataset.rows(split)} == {row["input"] for row in rows}


@pytest.mark.parametrize("ending", [ending for ending in PACKED if ending != ".zip"])
def test_a_packed_file_that_is_cut_off_is_damaged(made: MadeDomain, ending: str) -> None:
    whole = PACKED[ending](jsonl(good_rows(2000)))
    made.write(f"rows.jsonl{ending}", whole[: len(whole) // 2])
    with pytest.raises(DataError) as told:
        made.ingest({"source": {"path": f"rows.jsonl{ending}"}})
    assert f"rows.jsonl{ending}: cannot be read to its end" in str(told.value)


def test_a_reader_that_fails_says_nothing_of_the_file(made: MadeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(gzip.GzipFile):
        def read1(self, size: int = -1) -> bytes:
            raise io.UnsupportedOperation("readline")

        read = readinto = read1  # type: ignore[assignment]

    monkeypatch.setattr(packed.gzip, "GzipFile", Failing)
    made.write("rows.jsonl.gz", gzip.compress(jsonl(good_rows())))
    with pytest.raises(DataError) as told:
        made.ingest({"source": {"path": "rows.jsonl.gz"}})
    assert "the reader of .gz files failed, which says nothing of the file" in str(told.value)
    assert "damaged" not in str(told.value)


def test_a_blank_line_of_a_single_column_is_an_empty_cell(tmp_path: Path) -> None:
    from alter_core.data.files import read_file
    from alter_core.data.places import File
    from alter_core.problems import Problems

    file = tmp_path / "rows.csv"
    for content, wrong in (("input\na\n\nb\n\n", ["rows.csv:3"]), ("input\na\nb\n\n\n", [])):
        file.write_text(content)
        problems = Problems()
        assert len(list(read_file(File("rows.csv", path=file), "csv", (), problems))) == 2
        assert [line.partition(": is blank")[0] for line in problems.lines] == wrong


def test_rows_in_are_rows_out_and_rows_left_out_for_a_reason(made: MadeDomain) -> None:
    rows = [{**row, "lang": "en"} for row in good_rows(100)]
    rows += [{**row, "lang": "de"} for row in good_rows(30, first=100)]
    rows += rows[:7]
    rows += [{"input": f"both {n}", "target": target, "lang": "en"} for n in range(4) for target in ("yes", "no")]
    made.write("rows.jsonl", rows)
    made.write("test.jsonl", good_rows(10))
    source = {"path": "rows.jsonl", "where": {"lang": "en"}, "limit": 60}
    task = made.ingest({"source": source, "test": {"path": "test.jsonl"}}).manifest["tasks"]["task"]
    left_out = {key: task[key] for key in ("filtered", "duplicates", "leakage", "contradicting", "over_limit")}
    assert left_out == {"filtered": 30, "duplicates": 7, "leakage": 10, "contradicting": 8, "over_limit": 30}
    assert task["read"] + task["filtered"] - sum(left_out.values()) == sum(task["rows"].values())
