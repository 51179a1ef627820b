"""`alter predict` on a registered champion: one text, and files of rows, as a person types it."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alter_core.inference import answer_file
from alter_core.inference.predict import Predictor
from tests.command_line import Alter, caller_at, in_terminal
from tests.conftest import tiny_rows
from tests.registry.conftest import Store

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, bundle: Path) -> Path:
    """A workspace whose registry holds a champion of the tiny domain."""
    folder = tmp_path_factory.mktemp("home")
    store = Store(folder / "mlflow", empty_store)
    store.models.set_champion("tiny", store.register(bundle, "key"), None)
    return folder


@pytest.fixture
def alter(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alter:
    """Run a command line in `tmp_path`; gives exit code, stdout and stderr."""
    return caller_at(home, tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Mixed tasks in an order that no batch would have, with a column that is none of our business."""
    kept = [(task, row["input"]) for task, lines in tiny_rows().items() for row in lines[:9]]
    return [{"id": n, "task": task, "input": text} for n, (task, text) in enumerate(kept[::2] + kept[1::2])]


@pytest.fixture(scope="module")
def wanted(bundle: Path, rows: Rows) -> list[tuple[str, float, bool]]:
    """What the bundle answers to `rows` when asked directly."""
    found = Predictor.from_bundle(bundle).predict([row["task"] for row in rows], [row["input"] for row in rows])
    return [(answer.text, answer.score, answer.abstain) for answer in found]


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("chunk", [4096, 5])
def test_a_file_comes_back_with_answers_in_its_own_order_however_it_is_cut(
    alter: Alter,
    tmp_path: Path,
    rows: Rows,
    wanted: list[tuple[str, float, bool]],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_file, "CHUNK_ROWS", chunk)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    code, out, err = alter("predict", "tiny", "--file", "rows.jsonl", "--out", "answers.jsonl", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"] == len(rows)
    found = read_jsonl(tmp_path / "answers.jsonl")
    assert [{key: row[key] for key in ("id", "task", "input")} for row in found] == rows
    assert [(row["prediction"], row["abstain"]) for row in found] == [(text, abstain) for text, _, abstain in wanted]
    assert [row["score"] for row in found] == pytest.approx([score for _, score, _ in wanted], abs=1e-4)
    assert {row["abstain"] for row in found} == {True, False}
    assert len(set(wanted)) > len(rows) / 2  # answers differ, so the order says something
    assert sorted(os.listdir(tmp_path)) == ["answers.jsonl", "rows.jsonl"]


def test_csv_goes_in_and_out_with_one_task_for_all(alter: Alter, tmp_path: Path) -> None:
    inputs = ["the red ball, in the hall", 'the "blue" box\nis here', "the green car " * 60, "a bare\rreturn"]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerows([["input", "note"], *[[text, "é"] for text in inputs]])
    code, out, err = alter("predict", "tiny", "--file", "rows.csv", "--task", "colour", "--out", "answers.csv")
    assert code == 0, err
    assert "4 rows" in out
    assert "1 inputs were cut" in out
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["input", "note", "prediction", "score", "truncated", "abstain"]
    assert [row["input"] for row in found] == inputs
    assert {row["prediction"] for row in found} <= {"red", "green", "blue"}
    assert [row["truncated"] for row in found] == ["false", "false", "true", "false"]


ROW = '{"task": "colour", "input": "the red ball"}\n'


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rows.jsonl", ROW + "{broken\n" + '{"task": "color", "input": " "}\n', ("rows.jsonl:2: not valid JSON",
         "rows.jsonl:3: unknown task 'color'; did you mean 'colour'?", "rows.jsonl:3: input is empty", "3 problems")),
        ("rows.jsonl", '{"task": "colour", "inputs": "x"}\n' + ROW, ("rows.jsonl:1: there is no column 'input'; "
         "did you mean 'inputs'?",)),
        ("rows.jsonl", '{"input": "x"}\n', ("rows.jsonl:1: there is no column 'task'", "--task names one")),
        ("rows.jsonl", '{"task": "colour", "input": null}\n', ("rows.jsonl:1: input must be a text, got null",)),
        ("rows.jsonl", '{"task": "colour", "input": "x", "score": 1}\n', ("has a column 'score' already",)),
        ("rows.jsonl", '{"task": "colour", "input": "x", "input": "y"}\n', ("rows.jsonl:1: the key 'input' stands",)),
        ("rows.csv", "task,input,input\ncolour,x,y\n", ("rows.csv:1: the column 'input' stands twice",)),
        ("rows.csv", "task,input\ncolour,x\ntask,input\ncolour,y\n", ("rows.csv:3: is the header again",)),
        ("rows.csv", 'task,input\ncolour,a\ncolour,"b\ncolour,c\ncolour,d 15"\ncolour,e\n',
         ("rows.csv:3: a quote opens here and closes in line 5, over what look like rows",)),
        ("rows.csv", "<!DOCTYPE html>\n<html>sign in</html>\n", ("rows.csv:1: is a web page",)),
        ("rows.jsonl", "task,input\ncolour,x\n", ("rows.jsonl:1: begins as a csv file does",)),
        ("rows.jsonl", ROW * 2 + '{"task": "colour", "input": "a\\u0000b"}\n',
         ("rows.jsonl:3: input holds a NUL character",)),
        ("rows.jsonl", "", ("rows.jsonl: holds no rows",)),
        ("rows.csv", "task;input\ncolour;x\ncolour;y\n", ("is separated by semicolons; write it with commas",)),
        ("rows.csv", "task,input\ncolour,x,y\n", ("rows.csv:2: has 3 fields where the header has 2",)),
        ("rows.jsonl", '{"task": "x"}\n' * 500, ("at least 20 problems",)),
    ],
)  # fmt: skip
def test_wrong_rows_are_told_with_their_lines_and_nothing_is_written(
    alter: Alter, tmp_path: Path, name: str, text: str, expected: Sequence[str]
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    code, out, err = alter("predict", "tiny", "--file", name, "--out", "answers.jsonl")
    assert (code, out) == (2, "")
    for part in expected:
        assert part in err
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--file", "rows.jsonl"), "give --file ROWS and --out ANSWERS"),
        (("--file", "rows.jsonl", "--out", "a.jsonl", "TEXT"), "and no TEXT"),
        (("TEXT",), "give --task TASK and TEXT"),
        (("--file", "missing.jsonl", "--out", "a.xlsx"), "missing.jsonl: is not there"),
        (("--file", "missing.jsonl", "--out", "a.xlsx"), ".xlsx is none of them"),
        (("--file", "rows.jsonl", "--out", "rows.jsonl"), "is the file that rows are read from"),
        (("--file", "rows.jsonl", "--out", "a.jsonl", "--task", "colour"), "rows.jsonl:1: has a task of its own"),
        (("--file", "rows.jsonl", "--out", "a.jsonl", "--task", "color"), "unknown task 'color'; did you mean"),
        (("--file", "rows.jsonl", "--out", "a.jsonl", "--version", "7"), "no version or alias '7'"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_refused_with_what_to_give(
    alter: Alter, tmp_path: Path, arguments: Sequence[str], expected: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW, encoding="utf-8")
    code, _, err = alter("predict", "tiny", *arguments)
    assert code == 2
    assert expected in err
    assert os.listdir(tmp_path) == ["rows.jsonl"]
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == ROW


def test_an_earlier_answer_file_survives_a_run_that_fails(
    alter: Alter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second chunk dies: neither half a file nor a leftover stays, and what was there is still there."""
    monkeypatch.setattr(answer_file, "CHUNK_ROWS", 1)
    (tmp_path / "rows.jsonl").write_text(ROW * 2, encoding="utf-8")
    (tmp_path / "answers.jsonl").write_text("kept\n", encoding="utf-8")
    whole, calls = Predictor.predict, []

    def interrupted(self: Predictor, *arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, *arguments, **more)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    code, _, _ = alter("predict", "tiny", "--file", "rows.jsonl", "--out", "answers.jsonl")
    assert (code, len(calls)) == (130, 2)
    assert sorted(os.listdir(tmp_path)) == ["answers.jsonl", "rows.jsonl"]
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf-8") == "kept\n"


def test_one_text_is_answered_as_before(alter: Alter, rows: Rows, wanted: list[tuple[str, float, bool]]) -> None:
    first, (text, *_) = rows[0], wanted[0]
    code, out, err = alter("predict", "tiny", "--task", first["task"], first["input"])
    assert (code, out.strip()) == (0, text), err


def test_a_text_whose_answer_abstains_is_answered_and_that_is_said(
    alter: Alter, rows: Rows, wanted: list[tuple[str, float, bool]]
) -> None:
    first, (text, score, _) = next(pair for pair in zip(rows, wanted, strict=True) if pair[1][2])
    code, out, err = alter("predict", "tiny", "--task", first["task"], first["input"], "--json")
    assert code == 0, err
    assert json.loads(out) == {"prediction": text, "score": pytest.approx(score, abs=1e-4), "abstain": True}
    assert "is below the bound at which the task abstains" in err


def test_a_terminal_shows_progress_with_the_time_left(
    alter: Alter, tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows)
    arguments = ("predict", "tiny", "--file", "rows.jsonl", "--out", "answers.csv")
    code, out, shown = in_terminal(alter, monkeypatch, *arguments)
    assert code == 0, shown
    assert f"{len(rows)}/{len(rows)}" in shown
    assert "0:00 left" in shown
    assert "wrote answers.csv" in out
