"""Whatever a data file holds, reading it gives rows or a DataError; nothing is written outside of the workspace."""

import gzip
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alter_core.errors import AlterError, DataError
from tests.data.conftest import MadeDomain, good_rows, jsonl
from tests.fuzz.conftest import no_hang

SECRET = "what lies outside of the roots"


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def _csv(rows: list[dict[str, Any]]) -> bytes:
    return ("input,target\n" + "".join(f'"{row["input"]}",{row["target"]}\n' for row in rows)).encode()


RIGHT = {
    "rows.jsonl": jsonl(good_rows(40)),
    "rows.csv": _csv(good_rows(40)),
    "rows.parquet": _parquet(good_rows(40)),
    "rows.jsonl.gz": gzip.compress(jsonl(good_rows(40)), mtime=0),
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@contextmanager
def domain() -> Iterator[MadeDomain]:
    """A domain in a folder of its own; afterwards nothing may lie there but what the test put there."""
    with tempfile.TemporaryDirectory(prefix="alter-fuzz-") as name:
        folder = Path(name)
        made = MadeDomain(folder)
        (folder / "outside.jsonl").write_bytes(jsonl([{"input": f"{SECRET} {n}", "target": "yes"} for n in range(40)]))
        yield made
        outside = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_relative_to(made.workspace.home)}
        assert outside <= {"domain", "domain/domain.yaml", "outside.jsonl", *(f"domain/{name}" for name in RIGHT)}
        left = [p.name for p in made.workspace.datasets.glob(".*")] if made.workspace.datasets.exists() else []
        assert left == []  # a reading that failed keeps nothing half done


def produce(made: MadeDomain, name: str) -> None:
    """Ingest and validate, as a run would."""
    with no_hang():
        try:
            made.validate({"source": {"path": name}})
        except AlterError as error:
            told = str(error)
        else:
            told = ""
    assert "Traceback" not in told
    assert SECRET not in told


@given(name=st.sampled_from(sorted(RIGHT)), content=st.binary(max_size=300))
def test_any_bytes(name: str, content: bytes) -> None:
    with domain() as made:
        made.write(name, content)
        produce(made, name)


@given(name=st.sampled_from(sorted(RIGHT)), data=st.data())
def test_a_right_file_with_bytes_changed_cut_off_or_put_in(name: str, data: st.DataObject) -> None:
    content = bytearray(RIGHT[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        how = data.draw(st.sampled_from(["change", "cut", "put"]))
        if how == "change" and content:
            content[place] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del content[place : place + data.draw(st.integers(1, 200))]
        else:
            content[place:place] = data.draw(st.binary(max_size=20))
    with domain() as made:
        made.write(name, bytes(content))
        produce(made, name)


@given(rows=st.lists(json_values | st.fixed_dictionaries({"input": json_values, "target": json_values}), max_size=20))
def test_rows_of_any_json(rows: list[Any]) -> None:
    with domain() as made:
        made.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        produce(made, "rows.jsonl")


parts = st.sampled_from(
    ["..", ".", "", "domain", "outside.jsonl", "*", "**", "*.jsonl", "?", "[a-z]*", "~", "\0", "::", " "]
)
WAYS_OUT = ("../outside.jsonl", "file://{root}/outside.jsonl", "{root}/outside.jsonl", "../*.jsonl", "**/../../*.jsonl")


@given(path=st.lists(parts, min_size=1, max_size=5).map("/".join) | st.sampled_from(WAYS_OUT) | st.text(max_size=20))
def test_no_path_leads_out_of_the_roots(path: str) -> None:
    with domain() as made:
        given_path = path.replace("{root}", str(made.folder.parent))
        with no_hang():
            try:
                dataset = made.ingest({"source": {"path": given_path, "format": "jsonl"}})
            except AlterError as error:
                assert SECRET not in str(error)  # noqa: PT017 - most paths are wrong, and some are right
                return
        assert not [row for row in dataset.rows() if SECRET in row["input"]]


@pytest.mark.parametrize(
    "callable_", ["../evil.py:rows", "/tmp/evil.py:rows", "sub/../../evil.py:rows", "link.py:rows"]
)
def test_no_callable_outside_of_the_domain_is_run(tmp_path: Path, callable_: str) -> None:
    made = MadeDomain(tmp_path)
    evil = tmp_path / "evil.py"
    evil.write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef rows():\n    return []\n")
    (made.folder / "sub").mkdir()
    (made.folder / "link.py").symlink_to(evil)
    with pytest.raises(DataError):
        made.ingest({"source": {"callable": callable_}})
    assert not (tmp_path / "ran").exists()
