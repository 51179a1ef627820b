"""A new domain from sample files: what is guessed, and that it passes the check and ingestion."""

import json
from pathlib import Path

import pytest
import yaml

from alter_core.data.ingest import ingest
from alter_core.errors import DataError
from alter_core.spec.load import load_domain
from alter_core.workspace import Workspace
from flows.production.scaffold import scaffold


@pytest.fixture
def samples(tmp_path: Path) -> list[Path]:
    """One file of each kind of task."""
    count = range(60)
    topic = [{"uid": n, "text": f"message {n} about money", "intent": ("pay", "ask", "yes")[n % 3]} for n in count]
    pair = ["premise,hypothesis,label", *(f"it rains {n},it is wet {n},{('yes', 'no')[n % 2]}" for n in count)]
    span = [{"question": f"which number {n}", "context": f"it was {n} then", "answer": f"{n}"} for n in count]
    title = [{"body": f"long story number {n} goes on", "title": f"Tale {n * 7}"} for n in count]
    files = {"topic.jsonl": topic, "span.jsonl": span, "Story titles.jsonl": title}
    for name, rows in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pair.csv").write_text("\n".join(pair))
    return [tmp_path / name for name in ("topic.jsonl", "pair.csv", "span.jsonl", "Story titles.jsonl")]


def test_task_types_columns_and_labels_are_guessed(samples: list[Path], tmp_path: Path) -> None:
    spec = load_domain(scaffold("mine", samples, tmp_path / "mine"))
    assert {task.name: task.type for task in spec.tasks} == {
        "topic": "classification",
        "pair": "pair_classification",
        "span": "extraction",
        "story_titles": "generation",
    }
    assert spec.task("topic").labels == ("ask", "pay", "yes")
    assert spec.task("topic").source.columns == {"input": "text", "target": "intent"}
    assert spec.task("pair").source.template == "premise: {premise} hypothesis: {hypothesis}"


def test_the_new_domain_can_be_ingested(samples: list[Path], tmp_path: Path) -> None:
    file = scaffold("mine", samples, tmp_path / "mine")
    dataset = ingest(load_domain(file), file.parent, Workspace(tmp_path / "home"))
    assert all(sum(task["rows"].values()) == 60 for task in dataset.manifest["tasks"].values())


def test_a_file_that_is_sorted_by_its_labels_is_seen_whole(tmp_path: Path) -> None:
    rows = [{"text": f"message {n}", "label": n // 6000} for n in range(12_000)]
    (tmp_path / "sorted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_domain(scaffold("mine", [tmp_path / "sorted.jsonl"], tmp_path / "mine")).task("sorted")
    assert (task.type, task.labels) == ("classification", ("0", "1"))


def test_a_column_keeps_its_part_where_single_values_are_missing(tmp_path: Path) -> None:
    """Nulls, and keys that some rows do not have, the first one among them."""
    rows = [{"text": f"message {n}", "note": f"so {n}", "label": ("pay", "ask")[n % 2]} for n in range(60)]
    del rows[0]["label"]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (*rows, {"text": None, "label": "ask"}))
    )
    task = load_domain(scaffold("mine", [tmp_path / "rows.jsonl"], tmp_path / "mine")).task("rows")
    assert (task.type, task.labels) == ("classification", ("ask", "pay"))
    assert task.source.columns == {"input": "text", "target": "label"}


def test_labels_are_tidied_and_names_of_files_are_no_globs(tmp_path: Path) -> None:
    rows = [f"text {n},{('yes', 'yes ', 'no')[n % 3]}" for n in range(60)]
    (tmp_path / "rows[1].csv").write_text("\n".join(["text,label", *rows, "text without,"]))
    file = scaffold("mine", [tmp_path / "rows[1].csv"], tmp_path / "mine")
    assert load_domain(file).tasks[0].labels == ("no", "yes")
    with pytest.raises(DataError, match=r"rows\[1\].csv:62: column 'label' is empty"):
        ingest(load_domain(file), file.parent, Workspace(tmp_path / "home"))


def test_labels_and_columns_that_yaml_does_not_take_raw_are_written_so_that_they_come_back(tmp_path: Path) -> None:
    labels, column = ("caf\u0092", "caf\u00e9", "tea\U0001f375"), "label\u0092\U0001f375"
    rows = [{"text": f"text {n}", column: labels[n % 3]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = scaffold("mine", [tmp_path / "rows.jsonl"], tmp_path / "mine")
    task = load_domain(file).tasks[0]
    assert set(task.labels or ()) == set(labels)
    assert task.source.columns["target"] == column
    assert "caf\u00e9" in file.read_text(encoding="utf-8")


def test_names_that_yaml_takes_for_something_else_are_quoted(tmp_path: Path) -> None:
    (tmp_path / "no.csv").write_text("\n".join(["text,label", *(f"text {n},{'ab'[n % 2]}" for n in range(60))]))
    spec = load_domain(scaffold("on", [tmp_path / "no.csv"], tmp_path / "on"))
    assert (spec.name, spec.task_names) == ("on", ("no",))


def test_each_guess_is_said_in_a_comment(samples: list[Path], tmp_path: Path) -> None:
    text = scaffold("mine", samples, tmp_path / "mine").read_text()
    assert text.count("# guessed:") == 4
    assert yaml.safe_load(text)["name"] == "mine"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("Mine", '{"input": "a", "target": "b"}\n', "lower case"),
        ("mine", '{"only": "a"}\n', "this file has 'only'"),
        ("mine", '{"text": {"a": 1}, "label": "b"}\n', r"'text' holds a nested value \(an object\); flatten it"),
        ("mine", '{"text": "a", "label": null}\n{"text": "b"}\n', "'label' holds nothing in 2 of 2 rows"),
        ("mine", '{"text": "a", "label": null}\n{"text": null, "label": "b"}\n', "no row has both 'text' and 'label'"),
        ("mine", "{broken\n", "rows.jsonl:1"),
        ("mine", "", "no rows to guess from"),
    ],
)
def test_what_cannot_be_guessed_is_told(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match=says):
        scaffold(name, [tmp_path / "rows.jsonl"], tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_is_no_file_of_rows_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("text,label\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as caught:
        scaffold("mine", [tmp_path / name for name in ("rows", "folder", "gone.csv")], tmp_path / "made")
    ending, folder, gone = caught.value.problems
    assert "rows: its ending does not tell its format; rename it so that it ends in .jsonl, .csv" in ending
    assert "folder: this is a folder; name its files" in folder
    assert "gone.csv: there is no such file" in gone


def test_a_folder_that_is_there_is_left_alone(samples: list[Path], tmp_path: Path) -> None:
    scaffold("mine", samples, tmp_path / "mine")
    with pytest.raises(DataError, match="already there"):
        scaffold("mine", samples, tmp_path / "mine")


def test_a_column_that_says_the_split_is_used(tmp_path: Path) -> None:
    rows = "".join(
        f"message {n},{('late', 'lost')[n % 2]},{('train', 'train', 'dev', 'test')[n % 4]}\n" for n in range(200)
    )
    (tmp_path / "orders.csv").write_text("text,label,split\n" + rows)
    spec = load_domain(scaffold("shop", [tmp_path / "orders.csv"], tmp_path / "shop"))
    [task] = spec.tasks
    assert (task.source.columns, task.labels) == ({"input": "text", "target": "label"}, ("late", "lost"))
    assert task.source.where == {"split": ("train", "dev")}
    assert task.test is not None
    assert (task.test.path, task.test.columns, task.test.where) == (
        task.source.path,
        task.source.columns,
        {"split": ("test",)},
    )
    rows_of = ingest(spec, tmp_path / "shop", Workspace(tmp_path / "home")).manifest["tasks"]["orders"]["rows"]
    assert (rows_of["train"] + rows_of["validation"], rows_of["test"]) == (150, 50)
