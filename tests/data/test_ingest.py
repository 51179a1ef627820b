"""What ingestion promises: tidy rows, stable splits and ids, a digest that knows content alone."""

import csv
import gzip
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alter_core.data import sorted_rows
from alter_core.data.dataset import COLUMNS, SPLITS, TaskDataset
from alter_core.data.fingerprint import source_fingerprint
from alter_core.data.ingest import ingest
from alter_core.errors import DataError
from alter_core.text import clean
from tests.data.conftest import MadeDomain, Rows, good_rows, jsonl

RowsOf = Callable[..., Rows]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("  two  words ", "two words"),
        ("tab\tand\u00a0space", "tab and space"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("one \n\n\n\n two", "one\n\ntwo"),
        ("cafe\u0301", "caf\u00e9"),
        ("Ca\u017eE stays", "Ca\u017eE stays"),
    ],
)
def test_text_is_written_in_one_way(given: str, written: str) -> None:
    assert clean(given) == written
    assert clean(written) == written


def test_every_white_space_of_unicode_becomes_one_of_two() -> None:
    spaces = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace()]
    assert len(spaces) > 20
    assert {clean(f"a{c}b") for c in spaces} == {"a b", "a\nb"}
    assert {clean(f"a {c} b\u200d") for c in spaces} == {"a b\u200d", "a\nb\u200d"}


def test_rows_have_the_canonical_columns_and_are_memory_mapped(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows())
    dataset = made.ingest()
    rows = dataset.rows("train")
    assert rows.column_names == list(COLUMNS)
    assert rows.cache_files, "rows are read from disk"
    assert sum(len(dataset.rows(split)) for split in SPLITS) == 200
    assert TaskDataset.open(dataset.path).digest == dataset.digest


def test_the_order_of_files_and_rows_changes_nothing(made: MadeDomain, rows_of: RowsOf) -> None:
    rows = good_rows()
    made.write("a.jsonl", rows[:150])
    made.write("b.jsonl", rows[150:])
    one = made.ingest({"source": {"path": "*.jsonl"}})
    made.write("a.jsonl", rows[:49:-1])
    made.write("b.jsonl", rows[49::-1])
    two = made.ingest({"source": {"path": ["b.jsonl", "a.jsonl"]}})
    assert one.path != two.path
    assert one.digest == two.digest
    assert rows_of(one) == rows_of(two)


def test_a_row_never_moves_between_splits_when_data_grows(made: MadeDomain, rows_of: RowsOf) -> None:
    made.write("rows.jsonl", good_rows(300))
    before = {row["id"]: row["split"] for split in SPLITS for row in rows_of(made.ingest(), split)}
    made.write("rows.jsonl", good_rows(900))
    after = {row["id"]: row["split"] for split in SPLITS for row in rows_of(made.ingest(), split)}
    assert len(before) == 300
    assert before.items() <= after.items()
    assert 0.06 < list(after.values()).count("test") / 900 < 0.14


def test_a_group_never_straddles_splits_in_any_task(made: MadeDomain, rows_of: RowsOf) -> None:
    rows = [{**row, "group": f"g{n % 30}"} for n, row in enumerate(good_rows(600))]
    made.write("rows.jsonl", rows)
    dataset = made.ingest({"name": "one"}, {"name": "two"}, split={"by": "group", "test": 0.3})
    group_of = {row["input"]: row["group"] for row in rows}
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        for row in rows_of(dataset, split):
            seen.setdefault(group_of[row["input"]], set()).add(split)
    assert len(seen) == 30
    assert {len(splits) for splits in seen.values()} == {1}


def test_a_limit_keeps_the_same_rows_whatever_their_order(made: MadeDomain, rows_of: RowsOf) -> None:
    made.write("rows.jsonl", good_rows(300))
    task = {"source": {"path": "rows.jsonl", "limit": 100}}
    one = made.ingest(task)
    made.write("rows.jsonl", good_rows(300)[::-1])
    two = made.ingest(task)
    assert sum(one.manifest["tasks"]["task"]["rows"].values()) == 100
    assert one.digest == two.digest


def test_exact_and_case_folded_duplicates_are_removed_and_counted(made: MadeDomain, rows_of: RowsOf) -> None:
    made.write("rows.jsonl", [*good_rows(), good_rows()[3], {"input": "IS  pear number 1 Ripe ", "target": "no"}])
    task = made.ingest().manifest["tasks"]["task"]
    assert (task["read"], task["duplicates"], sum(task["rows"].values())) == (202, 2, 200)


@pytest.mark.parametrize(("type_", "kept"), [("classification", 0), ("generation", 2)])
def test_contradictions_are_counted_and_dropped_for_label_tasks(
    made: MadeDomain, rows_of: RowsOf, type_: str, kept: int
) -> None:
    both = [{"input": "is it", "target": "yes"}, {"input": "is it ", "target": "no"}]
    made.write("rows.jsonl", good_rows() + both)
    dataset = made.ingest({"type": type_})
    found = [row for split in SPLITS for row in rows_of(dataset, split) if row["input"].lower() == "is it"]
    assert dataset.manifest["tasks"]["task"]["contradictions"] == 1
    assert len(found) == kept


def test_training_rows_that_stand_in_the_test_file_are_removed(made: MadeDomain, rows_of: RowsOf) -> None:
    made.write("rows.jsonl", good_rows(200))
    made.write("test.jsonl", [{**row, "input": row["input"].upper()} for row in good_rows(50)])
    dataset = made.ingest({"test": {"path": "test.jsonl"}})
    inputs = {split: {row["input"].lower() for row in rows_of(dataset, split)} for split in SPLITS}
    assert len(inputs["test"]) == 50
    assert not inputs["test"] & (inputs["train"] | inputs["validation"])
    assert dataset.manifest["tasks"]["task"]["leakage"] == 50


def test_columns_labels_filters_and_templates_are_mapped(made: MadeDomain, rows_of: RowsOf) -> None:
    rows = [{"a": f"one {n}", "b": f"two {n}", "gold": str(n % 2), "lang": "en" if n else "de"} for n in range(100)]
    made.write("rows.jsonl", rows)
    source = {
        "path": "rows.jsonl",
        "template": "premise: {a} hypothesis: {b}",
        "columns": {"target": "gold", "id": "b"},
        "label_map": {"0": "no", "1": "yes"},
        "where": {"lang": ["en", "fr"]},
    }
    dataset = made.ingest({"type": "pair_classification", "source": source})
    found = {row["id"]: row for split in SPLITS for row in rows_of(dataset, split)}
    assert len(found) == 99
    assert found["two 7"]["input"] == "premise: one 7 hypothesis: two 7"
    assert found["two 7"]["target"] == "yes"
    assert dataset.labels == {"task": ("no", "yes")}


def test_every_format_gives_the_same_rows(made: MadeDomain) -> None:
    rows = [{**row, "input": f'{row["input"]}, "caf\u00e9"\nnext'} for row in good_rows()]
    table = pa.Table.from_pylist(rows)
    quoted = [[row["input"].replace('"', '""'), row["target"]] for row in rows]
    made.write("a.jsonl", b"\xef\xbb\xbf" + jsonl(rows))
    made.write("b.csv", "\ufeffinput,target\r\n" + "".join(f'"{i}",{t}\r\n' for i, t in quoted))
    made.write("c.tsv", "target\tinput\n" + "".join(f'{t}\t"{i}"\n' for i, t in quoted))
    pq.write_table(table, made.folder / "d.parquet")
    made.write("e.jsonl.gz", gzip.compress(jsonl(rows)))
    with zipfile.ZipFile(made.folder / "f.jsonl.zip", "w") as packed:
        packed.mkdir("folder")
        packed.writestr("folder/f.jsonl", jsonl(rows))
    datasets.Dataset(table).save_to_disk(str(made.folder / "saved"))
    database = made.folder / "rows.db"
    datasets.Dataset(table).to_sql("rows", f"sqlite:///{database}")
    made.write("source.py", f"import json\ndef rows(path):\n    yield from json.loads({json.dumps(rows)!r})\n")
    sources = [
        *({"path": name} for name in ("a.jsonl", "b.csv", "c.tsv", "d.parquet", "e.jsonl.gz", "f.jsonl.zip")),
        {"path": (made.folder / "a.jsonl").as_uri()},
        {"hub": "saved"},
        {"sql": "sqlite:///rows.db", "query": "select input, target from rows"},
        {"callable": "source.py:rows", "arguments": {"path": "x"}},
    ]
    digests = {
        json.dumps(source): made.ingest({"source": source}).manifest["tasks"]["task"]["digest"] for source in sources
    }
    assert len(set(digests.values())) == 1, digests


def test_a_number_in_two_spellings_is_told_before_it_is_two_labels(made: MadeDomain) -> None:
    for name, kind in (("whole", pa.int64()), ("gaps", pa.float64())):
        columns = {"input": [f"{name} {n}" for n in range(60)], "target": pa.array([n % 2 for n in range(60)], kind)}
        pq.write_table(pa.table(columns), made.folder / f"{name}.parquet")
    [blocking] = made.validate({"source": {"path": "*.parquet"}}).wrong("block")
    assert "'0', '0.0', '1', '1.0' differ only by case, or as 1 and 1.0 do" in blocking.text
    mapped = {"path": "*.parquet", "label_map": {"0.0": "0", "1.0": "1"}}
    assert made.ingest({"source": mapped}).labels == {"task": ("0", "1")}


def test_a_tab_and_a_line_end_in_a_quoted_field_of_a_tsv_are_kept(made: MadeDomain, rows_of: RowsOf) -> None:
    with (made.folder / "rows.tsv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter="\t")
        rows.writerow(["input", "target"])
        rows.writerows([f"def f{n}():\n\treturn 1\n\n\treturn 2", ("yes", "no")[n % 2]] for n in range(100))
    assert made.ingest({"source": {"path": "rows.tsv"}}).manifest["tasks"]["task"]["read"] == 100


def test_filters_know_truth_and_numbers_of_typed_columns_in_every_spelling(made: MadeDomain) -> None:
    rows = [{"input": f"a {n}", "target": "yes", "valid": n % 2 == 0, "year": float(2020 + n // 40)} for n in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), made.folder / "a.parquet")
    made.write("b.jsonl", [{**row, "input": f"b {n}", "year": int(row["year"])} for n, row in enumerate(rows)])
    source = {"path": ["a.parquet", "b.jsonl"], "where": {"valid": True, "year": 2020}}
    task = made.ingest({"source": source}).manifest["tasks"]["task"]
    assert (task["read"], task["filtered"]) == (20 + 20, 120 - 40)


def test_groups_and_mapped_labels_are_one_in_every_writing(made: MadeDomain, rows_of: RowsOf) -> None:
    rows = good_rows(600)
    for n, row in enumerate(rows):
        group, spelling = n % 60, n // 60 % 2
        words, numbers = (f"caf\u00e9 {group}", f" cafe\u0301  {group}"), (group, f"{group}.0")
        row["group"] = (words if group < 30 else numbers)[spelling]
        row["target"] = ("n\u00e9gatif  one", "ne\u0301gatif one", "pos")[n % 3]
    made.write("rows.jsonl", rows)
    source = {"path": "rows.jsonl", "label_map": {"n\u00e9gatif one": "neg"}}
    dataset = made.ingest({"source": source}, split={"by": "group", "test": 0.3})
    assert dataset.labels == {"task": ("neg", "pos")}
    number_of = {row["input"]: n % 60 for n, row in enumerate(rows)}
    splits = {(number_of[row["input"]], split) for split in SPLITS for row in rows_of(dataset, split)}
    assert len(splits) == 60


def test_a_wildcard_passes_over_hidden_names(made: MadeDomain) -> None:
    made.write("data/rows.jsonl", good_rows(100))
    made.write("data/.checkpoints/rows.jsonl", good_rows(50, first=100))
    read = {path: made.ingest({"source": {"path": path}}).manifest["tasks"]["task"]["read"]
            for path in ("data/**/*.jsonl", "data/.checkpoints/*.jsonl")}  # fmt: skip
    assert read == {"data/**/*.jsonl": 100, "data/.checkpoints/*.jsonl": 50}


def test_a_source_that_changes_while_it_is_read_is_not_kept_as_what_it_was(made: MadeDomain, rows_of: RowsOf) -> None:
    good, bad = good_rows(), [{**row, "target": "yes"} for row in good_rows()]
    made.write("rows.jsonl", good)
    spec = made.spec()

    def overwrite(done: int, *_: object, **__: object) -> None:
        made.write("rows.jsonl", bad)

    ingest(spec, made.folder, made.workspace, progress=overwrite)
    made.write("rows.jsonl", good)
    assert {row["target"] for row in rows_of(ingest(spec, made.folder, made.workspace))} == {"yes", "no"}


def test_a_folder_written_anew_with_the_time_of_the_old_is_read_anew(
    made: MadeDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of: RowsOf
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for first in (0, 1000):
        file = made.write("folder/train.jsonl", good_rows(first=first))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        found = {row["input"] for row in rows_of(made.ingest({"source": {"hub": "folder"}}))}
        assert found < {row["input"] for row in good_rows(first=first)}
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_commit_in_the_cache_is_not_the_pinned_one(
    made: MadeDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library's cache holds after an earlier load, and no hub to ask."""
    cached = tmp_path / "cache/org___name/default/0.0.0" / ("a" * 40)
    made.write("rows.jsonl", good_rows())
    datasets.load_dataset("json", data_files=str(made.folder / "rows.jsonl"), cache_dir=str(tmp_path / "first"))
    arrow = next((tmp_path / "first").rglob("*.arrow"))
    shutil.copytree(arrow.parent, cached)
    (cached / arrow.name).rename(cached / "name-train.arrow")
    info = json.loads((cached / "dataset_info.json").read_text())
    (cached / "dataset_info.json").write_text(json.dumps(info | {"dataset_name": "name"}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert made.ingest({"source": {"hub": "org/name", "revision": "a" * 40}}).manifest["tasks"]["task"]["read"] == 200
    with pytest.raises(DataError) as told:
        made.ingest({"source": {"hub": "org/name", "revision": "b" * 40}})
    assert "another one" in str(told.value), str(told.value)


def test_rows_that_do_not_fit_memory_are_sorted_in_runs(made: MadeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write("rows.jsonl", good_rows(500))
    whole = made.ingest().manifest["tasks"]["task"]["digest"]
    monkeypatch.setattr(sorted_rows, "RUN_ROWS", 64)
    made.write("rows.jsonl", good_rows(500)[::-1])
    assert made.ingest().manifest["tasks"]["task"]["digest"] == whole


def test_an_unchanged_domain_is_not_read_again(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows())
    first = made.ingest()
    stamp = (first.path / "manifest.json").stat().st_mtime_ns
    assert (made.ingest().path / "manifest.json").stat().st_mtime_ns == stamp
    made.write("rows.jsonl", good_rows(201))
    assert made.ingest().digest != first.digest


def test_the_fingerprint_knows_the_versions_that_a_callable_tells(made: MadeDomain, tmp_path: Path) -> None:
    code = "VERSION = {}\ndef rows():\n    yield {{}}\ndef fingerprint():\n    return VERSION\n"
    task = {"source": {"callable": "source.py:rows"}}
    made.write("source.py", code.format(1))
    one = source_fingerprint(made.spec(task), made.folder, None)
    assert one == source_fingerprint(made.spec(task), made.folder, None)
    made.write("source.py", code.format(2))
    assert source_fingerprint(made.spec(task), made.folder, None) not in (one, None)
    made.write("source.py", "def rows():\n    yield {}\n")
    assert source_fingerprint(made.spec(task), made.folder, None) is None


def test_code_beside_a_callable_in_a_subfolder_is_part_of_the_fingerprint(made: MadeDomain) -> None:
    code = "import datetime\ndef rows():\n    yield {}\ndef fingerprint():\n    return datetime.date(2026, 1, 2)\n"
    task = {"source": {"callable": "code/source.py:rows"}}
    made.write("code/source.py", code)
    one = source_fingerprint(made.spec(task), made.folder, None)
    assert one is not None
    made.write("code/source.py", code + "# other rows\n")
    assert source_fingerprint(made.spec(task), made.folder, None) not in (one, None)


def test_columns_named_by_numbers_fill_a_template(made: MadeDomain, rows_of: RowsOf) -> None:
    made.write("rows.csv", "0,1,target\n" + "".join(f"left {n},right {n},yes\n" for n in range(60)))
    dataset = made.ingest({"source": {"path": "rows.csv", "template": "{0} and {1} {{}}"}})
    assert all(" and right" in row["input"] and row["input"].endswith("{}") for row in rows_of(dataset, "train"))


def test_files_that_are_shown_alike_are_all_read(made: MadeDomain, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    made.write("rows.jsonl", good_rows(50))
    (root / "rows.jsonl").write_bytes(jsonl(good_rows(50, first=50)))
    source = {"path": ["rows.jsonl", str(made.folder / "rows.jsonl"), str(root / "rows.jsonl")]}
    task = made.ingest({"source": source}, data_root=root).manifest["tasks"]["task"]
    assert task["read"] == 100
    assert [name for name, _ in task["parts"]] == ["rows.jsonl", "rows.jsonl (2)"]


def test_labels_are_written_as_targets_are(made: MadeDomain) -> None:
    made.write("rows.jsonl", [{"input": f"a {n}", "target": "cafe\u0301"} for n in range(60)])
    dataset = made.ingest({"labels": ["cafe\u0301", "tea  room"]})
    assert dataset.labels == {"task": ("caf\u00e9", "tea room")}


def test_rows_may_lie_under_the_data_root(made: MadeDomain, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "rows.jsonl").write_bytes(jsonl(good_rows()))
    assert len(made.ingest(data_root=root).rows("train")) > 100


def test_a_killed_ingestion_leaves_nothing_that_is_read(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows())
    spec = made.spec()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(spec, made.folder, made.workspace, progress=stop)
    assert list(made.workspace.datasets.iterdir()) == []


def test_splits_have_the_shares_asked_for(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(1000))
    rows = made.ingest(split={"test": 0.3, "validation": 0.05}).manifest["tasks"]["task"]["rows"]
    assert rows["test"] == pytest.approx(300, abs=60)
    assert rows["validation"] == pytest.approx(50, abs=30)


def test_another_split_of_the_same_rows_is_another_data_set(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    one, two = (made.ingest(split={"test": share}) for share in (0.1, 0.4))
    assert one.path != two.path
    assert one.digest != two.digest
    assert two.counts("test")["task"] > one.counts("test")["task"]


def test_each_source_has_a_limit_of_its_own(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    made.write("test.jsonl", good_rows(100, first=500))
    source, test = ({"path": f"{name}.jsonl", "limit": limit} for name, limit in (("rows", 50), ("test", 80)))
    rows = made.ingest({"source": source, "test": test}).manifest["tasks"]["task"]["rows"]
    assert (rows["train"] + rows["validation"], rows["test"]) == (50, 80)
