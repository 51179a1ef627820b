"""Whatever is bad is stopped with the place and the remedy, before anything is kept."""

import bz2
import gzip
import io
import sqlite3
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alter_core.errors import AlterError
from tests.data.conftest import MadeDomain, good_rows, jsonl


@dataclass
class Case:
    """Files of a domain, its tasks, and what the message must say."""

    name: str
    says: tuple[str, ...]
    files: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[MadeDomain], None] | None = None
    more: dict[str, Any] = field(default_factory=dict)


def _parquet(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def _database(made: MadeDomain) -> None:
    with sqlite3.connect(made.folder / "rows.db") as connection:
        connection.execute("create table rows (input text, target text)")


def _link_out(made: MadeDomain) -> None:
    outside = made.folder.parent / "secret.jsonl"
    outside.write_bytes(jsonl(good_rows()))
    (made.folder / "rows.jsonl").symlink_to(outside)


def _folder_link_out(made: MadeDomain) -> None:
    outside = made.folder.parent / "elsewhere"
    outside.mkdir()
    (outside / "rows.jsonl").write_bytes(jsonl(good_rows()))
    (made.folder / "data").symlink_to(outside)


def _outside(made: MadeDomain) -> None:
    (made.folder.parent / "secret.jsonl").write_bytes(jsonl(good_rows()))


def _folder(made: MadeDomain) -> None:
    (made.folder / "rows").mkdir()


def _broken_link(made: MadeDomain) -> None:
    (made.folder / "rows.jsonl").symlink_to(made.folder / "gone.jsonl")


ONE = {"input": "one", "target": "yes"}
ROWS = good_rows()
CSV = {"source": {"path": "rows.csv"}}
YES_NO = {"labels": ["yes", "no"]}
GOOD_LINES = jsonl(ROWS)


def _call(code: str, **arguments: Any) -> dict[str, Any]:
    return {
        "files": {"source.py": code},
        "task": {"source": {"callable": "source.py:rows", **({"arguments": arguments} if arguments else {})}},
    }


def _zip(*names: str, content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name in names:
            packed.writestr(name, content)
    return stream.getvalue()


CASES = [
    Case("broken JSON", ("rows.jsonl:201: not valid JSON",), {"rows.jsonl": GOOD_LINES + b'{"input": "a", \n'}),
    Case("broken JSON twice", ("2 problems", "rows.jsonl:1:", "rows.jsonl:202:"),
         {"rows.jsonl": b"{nope}\n" + GOOD_LINES + b"{nope}\n"}),
    Case("a truncated last line", ("rows.jsonl:201: not valid JSON",), {"rows.jsonl": GOOD_LINES + b'{"input": "a'}),
    Case("a JSON array", ("rows.jsonl:1: a row is a JSON object, got a list", "one object a line"),
         {"rows.jsonl": b'[{"input": "a", "target": "b"}]\n'}),
    Case("pretty-printed JSON", ("rows.jsonl:1: not a whole JSON value", "one object a line"),
         {"rows.jsonl": b'{\n "input": "a",\n "target": "b"\n}\n'}),
    Case("Latin-1 in JSONL", ("rows.jsonl:201: byte", "not UTF-8", "iconv"),
         {"rows.jsonl": GOOD_LINES + '{"input": "caf\u00e9", "target": "yes"}\n'.encode("latin-1")}),
    Case("UTF-16", ("rows.jsonl:1: this is UTF-16", "iconv"),
         {"rows.jsonl": GOOD_LINES.decode().encode("utf-16")}),
    Case("a NUL byte", ("rows.jsonl:201: holds a NUL byte",), {"rows.jsonl": GOOD_LINES + b'{"input": "a\0b"}\n'}),
    Case("an escaped NUL", ("rows.jsonl:1: holds a NUL character",),
         {"rows.jsonl": b'{"input": "a\\u0000b", "target": "yes"}\n'}),
    Case("a lone surrogate", ("rows.jsonl:1: not valid JSON",),
         {"rows.jsonl": b'{"input": "a \\ud800 b", "target": "yes"}\n'}),
    Case("a line of 50 MB", ("rows.jsonl:2: longer than 8 MB", "one row a line"),
         {"rows.jsonl": jsonl([ONE]) + b'{"input": "' + b"a" * (50 * 2**20) + b'", "target": "yes"}\n'}),
    Case("an empty file", ("rows.jsonl: it has no rows",), {"rows.jsonl": b""}),
    Case("only blank lines", ("rows.jsonl: it has no rows",), {"rows.jsonl": b"\n\n  \n"}),
    Case("a missing file", ("rows.jsonl: no such file", "--data-root")),
    Case("a folder for a file", ("rows: this is a folder", "rows/*.jsonl"), {}, {"source": {"path": "rows"}}, _folder),
    Case("a glob that finds nothing", ("data/*.jsonl: no such file",), {}, {"source": {"path": "data/*.jsonl"}}),
    Case("an archive of two files", ("rows.jsonl.zip: this archive holds 2 files ('a.jsonl', 'b.jsonl')", "unpack it"),
         {"rows.jsonl.zip": _zip("a.jsonl", "b.jsonl", content=GOOD_LINES)}, {"source": {"path": "rows.jsonl.zip"}}),
    Case("an empty archive", ("rows.jsonl.zip: this archive holds no file",),
         {"rows.jsonl.zip": _zip("folder/")}, {"source": {"path": "rows.jsonl.zip"}}),
    Case("a number that is not exact", ("rows.parquet, row 1: column 'target' holds 9007199254740992.0", "as text"),
         {"rows.parquet": _parquet({"input": ["a"], "target": [2.0**53]})}, {"source": {"path": "rows.parquet"}}),
    Case("a lone surrogate from code", ("source.py:rows, row 1: holds half of a character",),
         **_call("def rows():\n    yield {'input': 'a \\ud800', 'target': 'b'}\n")),
    Case("a fingerprint that fails", ("source.py:rows: its fingerprint failed: TypeError",),
         **_call("def rows():\n    yield {'input': 'a', 'target': 'b'}\ndef fingerprint():\n    return {(1, 2): 3}\n")),
    Case("an unknown ending", ("rows.txt: its ending does not tell", "source > format"),
         {"rows.txt": GOOD_LINES}, {"source": {"path": "rows.txt"}}),
    Case("a missing column", ("rows.jsonl:1: there is no column 'input'", "did you mean 'inputs'", "source > columns"),
         {"rows.jsonl": [{"inputs": "a", "target": "yes"}]}),
    Case("a column missing in one row", ("rows.jsonl:201: there is no column 'target'",),
         {"rows.jsonl": [*ROWS, {"input": "a"}]}),
    Case("null for text", ("rows.jsonl:1: column 'input' must hold text, got nothing",),
         {"rows.jsonl": [{"input": None, "target": "yes"}]}),
    Case("a number for text", ("rows.jsonl:1: column 'input' must hold text, got the number 5", "template: '{input}'",),
         {"rows.jsonl": [{"input": 5, "target": "yes"}]}),
    Case("a nested value", ("rows.jsonl:1: column 'input' must hold text, got a nested value",),
         {"rows.jsonl": [{"input": ["a", "b"], "target": "yes"}]}),
    Case("a nested target", ("rows.jsonl:1: column 'target' must hold text or a number, got a nested value",),
         {"rows.jsonl": [{"input": "a", "target": {"label": "yes"}}]}),
    Case("an empty input", ("rows.jsonl:201: column 'input' is empty",),
         {"rows.jsonl": [*ROWS, {"input": " \n ", "target": "yes"}]}),
    Case("an empty target", ("rows.jsonl:201: column 'target' is empty",),
         {"rows.jsonl": [*ROWS, {"input": "a", "target": ""}]}),
    Case("a template without a filled column", ("rows.csv:3: columns 'a', 'b' are empty",),
         {"rows.csv": "a,b,target\nx,,yes\n , ,yes\n"},
         {"source": {"path": "rows.csv", "template": "one {a} two {b}"}}),
    Case("plain quotes in a TSV", ("rows.tsv:2: a quote opens here and closes in line 4, over what", "double its own"),
         {"rows.tsv": 'input\ttarget\n"Yes, he said.\tyes\nmiddle\tno\nI know."\tyes\n'},
         {"source": {"path": "rows.tsv"}}),
    Case("a ragged CSV", ("rows.csv:3: has 3 fields where the header has 2",),
         {"rows.csv": "input,target\na,yes\nb,c,no\n"}, CSV),
    Case("a quote that is not closed", ("rows.csv:2:", "not closed"),
         {"rows.csv": 'input,target\n"a,yes\nb,no\n'}, CSV),
    Case("a repeated CSV column", ("rows.csv:1: the column 'input' stands twice",),
         {"rows.csv": "input,input\na,b\n"}, CSV),
    Case("Latin-1 in CSV", ("rows.csv:3: byte 0xe9 is not UTF-8",),
         {"rows.csv": "input,target\na,yes\ncaf\u00e9,no\n".encode("latin-1")}, CSV),
    Case("tabs in a CSV", ("rows.csv:1: the header has one column", "format: tsv"),
         {"rows.csv": "input\ttarget\na\tyes\n"}, CSV),
    Case("semicolons in a CSV", ("rows.csv:1: the header has one column and holds ';'", "write it with commas"),
         {"rows.csv": "input;target\na;yes\n"}, CSV),
    Case("a CSV without the column", ("rows.csv:2: there is no column 'input'",),
         {"rows.csv": "text,target\na,b\n"}, CSV),
    Case("only a CSV header", ("rows.csv: it has no rows",), {"rows.csv": "input,target\n"}, CSV),
    Case("no Parquet", ("rows.parquet: is not a Parquet file",), {"rows.parquet": b"PAR1 nothing"},
         {"source": {"path": "rows.parquet"}}),
    Case("a Parquet file without the column", ("rows.parquet: there is no column 'target'",),
         {"rows.parquet": _parquet({"input": ["a"]})}, {"source": {"path": "rows.parquet"}}),
    Case("a nested Parquet column", ("rows.parquet, row 1: column 'input' must hold text, got a nested value",),
         {"rows.parquet": _parquet({"input": [["a"]], "target": ["yes"]})}, {"source": {"path": "rows.parquet"}}),
    Case("a cut gzip file", ("rows.jsonl.gz: cannot be read to its end",),
         {"rows.jsonl.gz": gzip.compress(GOOD_LINES)[:-20]}, {"source": {"path": "rows.jsonl.gz"}}),
    Case("no gzip file", ("rows.jsonl.gz: cannot be read",), {"rows.jsonl.gz": GOOD_LINES},
         {"source": {"path": "rows.jsonl.gz"}}),
    Case("a broken bzip2 file", ("rows.jsonl.bz2: cannot be read",),
         {"rows.jsonl.bz2": b"BZh9" + bz2.compress(GOOD_LINES)[9:]}, {"source": {"path": "rows.jsonl.bz2"}}),
    Case("a link out of the folder", ("rows.jsonl: a link leads out of",), {}, {}, _link_out),
    Case("a linked folder", ("data/*.jsonl: a link leads out of",), {}, {"source": {"path": "data/*.jsonl"}},
         _folder_link_out),
    Case("dots out of the folder", ("../secret.jsonl: it leads out of", "--data-root"), {},
         {"source": {"path": "../secret.jsonl"}}, _outside),
    Case("dots in a glob", ("../*.jsonl: it leads out of",), {}, {"source": {"path": "../*.jsonl"}}, _outside),
    Case("an absolute path", ("/etc/passwd:", "out of"), {}, {"source": {"path": "/etc/passwd", "format": "csv"}}),
    Case("a file URL", ("/etc/passwd:", "out of"), {}, {"source": {"path": "file:///etc/passwd", "format": "csv"}}),
    Case("a link to nothing", ("rows.jsonl:",), {}, {}, _broken_link),
    Case("a chained URL", ("URLs of the kind zip:// are not read",), {}, {"source": {"path": "zip://x.jsonl::/etc/a.zip"}}),
    Case("an unknown kind of URL", ("URLs of the kind ftp://",), {}, {"source": {"path": "ftp://host/rows.jsonl"}}),
    Case("a password in a URL", ("credentials do not belong",), {},
         {"source": {"path": "https://user:hunter2@host/rows.jsonl"}}),
    Case("an unreachable URL", ("http://127.0.0.1:9/rows.jsonl: cannot be reached",), {},
         {"source": {"path": "http://127.0.0.1:9/rows.jsonl?token=hunter2"}}),
    Case("duplicate ids", ("rows.jsonl:1 and rows.jsonl:2: the id 'x' stands at both",),
         {"rows.jsonl": [{"input": "a", "target": "yes", "key": "x"}, {"input": "b", "target": "no", "key": "x"}]},
         {"source": {"path": "rows.jsonl", "columns": {"id": "key"}}}),
    Case("a filter that leaves nothing", ("none of its 200 rows passes source > where",), {"rows.jsonl": ROWS},
         {"source": {"path": "rows.jsonl", "where": {"target": "maybe"}}}),
    Case("a missing group", ("rows.jsonl:1: there is no column 'group'",), {"rows.jsonl": ROWS},
         more={"split": {"by": "group"}}),
    Case("wrong SQL", ("the query failed", "source > query"), {},
         {"source": {"sql": "sqlite:///rows.db", "query": "select input, target from nothing"}}, _database),
    Case("no such database", ("there is no such database",), {},
         {"source": {"sql": "sqlite:///gone.db", "query": "select 1"}}),
    Case("a database out of the folder", ("leads out of",), {},
         {"source": {"sql": "sqlite:////etc/passwd", "query": "select 1"}}),
    Case("an unset variable", ("ALTER_TEST_UNSET is not set in the environment",), {},
         {"source": {"sql": "postgresql+psycopg://u:${ALTER_TEST_UNSET}@127.0.0.1/db", "query": "select 1"}}),
    Case("a database without rows", ("it has no rows",), {},
         {"source": {"sql": "sqlite:///rows.db", "query": "select input, target from rows"}}, _database),
    Case("a callable that fails", ("source.py:rows: failed after 1 row: ValueError: no more (source.py:3)",),
         **_call("def rows():\n    yield {'input': 'a', 'target': 'b'}\n    raise ValueError('no more')\n")),
    Case("a callable that yields text", ("source.py:rows, row 1: it must yield mappings such as",),
         **_call("def rows():\n    yield 'a'\n")),
    Case("a callable of another name", ("source.py has no function 'rows'; it has other",),
         **_call("def other(): ...\n")),
    Case("a callable that cannot be loaded", ("source.py: cannot be loaded: SyntaxError",), **_call("def rows(:\n")),
    Case("arguments that do not fit", ("arguments do not fit", "count"), **_call("def rows():\n    yield\n", count=3)),
    Case("a callable out of the folder", ("leads out of",), {}, {"source": {"callable": "../source.py:rows"}},
         lambda made: (made.folder.parent / "source.py").write_text("def rows(): ...")),  # type: ignore[arg-type, return-value]
    Case("an unknown entry point", ("neither FILE.py:FUNCTION", "alter.sources"), {},
         {"source": {"callable": "nothing"}}),
    Case("a data set folder that is not there", ("there is no such data set folder",), {},
         {"source": {"hub": "./gone"}}),
    Case("a label outside the list", ("targets are not in the task's labels: 'maybe'", "label_map", "rows.jsonl:201"),
         {"rows.jsonl": [*ROWS, {"input": "is it", "target": "maybe"}]}, YES_NO),
    Case("labels off by case", ("rows.jsonl:201", "'Yes'"),
         {"rows.jsonl": [*ROWS, {"input": "is it", "target": "Yes"}]}, YES_NO),
    Case("labels that differ by case", ("'Yes', 'yes' differ only by case", "label_map"),
         {"rows.jsonl": [*ROWS, *({"input": f"is it {n}", "target": "Yes"} for n in range(40))]}),
    Case("all one class", ("training rows have 1 label",),
         {"rows.jsonl": [{"input": f"row {n}", "target": "yes"} for n in range(200)]}),
    Case("nearly one class", ("one label has 9", "max_label_share"),
         {"rows.jsonl": [{"input": f"row {n}", "target": "no" if n < 3 else "yes"} for n in range(2000)]}),
    Case("too few rows", ("training rows; quality > min_rows asks for 20",), {"rows.jsonl": good_rows(12)}),
    Case("no test rows", ("there are no test rows",), {"rows.jsonl": ROWS}, more={"split": {"test": 0}}),
    Case("mostly duplicates", ("of the source's rows are duplicates", "rows.jsonl:"),
         {"rows.jsonl": ROWS + ROWS + ROWS}),
    Case("an unknown expectation", ("no expectation 'ExpectColumnToExit'", "did you mean 'ExpectColumnToExist'"),
         {"rows.jsonl": ROWS}, {"quality": {"expectations": [{"expectation": "ExpectColumnToExit"}]}}),
    Case("arguments of an expectation", ("the arguments of ExpectColumnToExist do not fit",), {"rows.jsonl": ROWS},
         {"quality": {"expectations": [{"expectation": "ExpectColumnToExist", "arguments": {"colour": "red"}}]}}),
    Case("an expectation on a missing column", ("cannot be checked", "nothing_here"), {"rows.jsonl": ROWS},
         {"quality": {"expectations": [
             {"expectation": "ExpectColumnValuesToNotBeNull", "arguments": {"column": "nothing_here"}}]}}),
    Case("an expectation that does not hold", ("ExpectColumnValueLengthsToBeBetween", "does not hold", "rows.jsonl:"),
         {"rows.jsonl": ROWS},
         {"quality": {"expectations": [{"expectation": "ExpectColumnValueLengthsToBeBetween",
                                        "arguments": {"column": "input", "max_value": 3}}]}}),
    Case("a password in the spec", ("password does not belong in a spec",), {},
         {"source": {"sql": "postgresql://me:hunter2@db/rows", "query": "select 1"}}),
    Case("a query that writes", ("a source only reads",), {},
         {"source": {"sql": "sqlite:///rows.db", "query": "drop table rows"}}),
    Case("a template that reaches further", ("plain column names",), {"rows.jsonl": ROWS},
         {"source": {"path": "rows.jsonl", "template": "{input.__class__}"}}),
    Case("an unknown canonical column", ("columns > text: no such column here; keys are input, target",),
         {"rows.jsonl": ROWS},
         {"source": {"path": "rows.jsonl", "columns": {"text": "input"}}}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input_is_stopped_with_its_place_and_remedy(case: Case, made: MadeDomain) -> None:
    for name, content in case.files.items():
        made.write(name, content)
    if case.prepare:
        case.prepare(made)
    with pytest.raises(AlterError) as caught:
        made.validate(case.task, **case.more).raise_if_blocked()
    message = str(caught.value)
    assert [said for said in case.says if said not in message] == [], message
    assert "hunter2" not in message
    assert caught.value.exit_code == 2
    assert "Traceback" not in message
    kept = sorted(path.name for path in made.workspace.datasets.glob(".*"))
    assert kept == [], "half-written folders stay behind"


def test_the_table_is_long_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


def test_all_problems_are_told_at_once(made: MadeDomain, tmp_path: Path) -> None:
    made.write("one.jsonl", jsonl([ONE]) + b"{nope}\n")
    with pytest.raises(AlterError) as caught:
        made.ingest(
            {"name": "first", "source": {"path": "one.jsonl"}}, {"name": "second", "source": {"path": "two.jsonl"}}
        )
    assert "first: one.jsonl:2" in str(caught.value)
    assert "second: two.jsonl: no such file" in str(caught.value)


def test_reading_stops_when_there_is_enough_to_show(made: MadeDomain) -> None:
    made.write("rows.jsonl", b"{nope}\n" * 1000)
    with pytest.raises(AlterError, match="at least 20 problems") as caught:
        made.ingest()
    assert len(caught.value.problems) == 20
