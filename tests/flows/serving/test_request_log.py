"""The request log: bounded, and read again to hold two versions against each other on what really came."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alter_core.data.ingest import ingest
from alter_core.inference.prediction import Prediction
from alter_core.spec import DomainSpec
from alter_core.workspace import Workspace
from flows.serving.request_log import RequestLog
from tests.command_line import Alter, caller_at
from tests.conftest import tiny_rows, tiny_spec
from tests.flows.serving.conftest import ROWS, running

VERSION: Any = SimpleNamespace(domain="tiny", version=1)
ANSWER = Prediction("red", 0.5, False)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]


@pytest.fixture
def alter(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alter:
    return caller_at(home, tmp_path, monkeypatch, capsys)


def test_it_holds_the_newest_rows_in_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, 20_000, 30)
    for number in range(1000):
        assert log.write(VERSION, ["colour"], [f"{number:04} {'x' * 50}"], [ANSWER])
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000
    kept = [int(row["input"][:4]) for row in rows_of(tmp_path)]
    assert kept == list(range(kept[0], 1000))
    assert len(kept) > 50
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_rows_go_when_they_are_too_old_though_nothing_new_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RequestLog(tmp_path, 20_000, 2)
    now = 1_800_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    for day in range(3):
        now = 1_800_000_000.0 + day * 86400
        log.write(VERSION, ["colour"], [f"day {day}"], [ANSWER])
    assert [row["input"] for row in rows_of(tmp_path)] == ["day 0", "day 1", "day 2"]
    now += 1
    log.tidy()
    assert [row["input"] for row in rows_of(tmp_path)] == ["day 1", "day 2"]
    now += 30 * 86400
    log.tidy()
    assert rows_of(tmp_path) == []
    assert log.write(VERSION, ["colour"], ["again"], [ANSWER])
    assert [row["input"] for row in rows_of(tmp_path)] == ["again"]


def test_files_of_other_names_stay_and_do_not_count(tmp_path: Path) -> None:
    others = {
        name: b"x" * 50_000 for name in ("requests-of-may.jsonl", "notes.txt", "requests-20260101T000000000000.jsonl")
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    log = RequestLog(tmp_path, 20_000, 30)
    assert all(log.write(VERSION, ["colour"], [f"{number} {'x' * 50}"], [ANSWER]) for number in range(300))
    assert {name: (tmp_path / name).read_bytes() for name in others} == others
    assert sum(file.stat().st_size for file in tmp_path.iterdir() if file.name not in others) > 10_000


def test_what_cannot_be_removed_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog(tmp_path, 20_000, 30)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        assert all(log.write(VERSION, ["colour"], [f"{number} {'x' * 50}"], [ANSWER]) for number in range(400))
        log.tidy()
    assert [record.message for record in caplog.records] == [
        "the request log's oldest files cannot be removed: not yours"
    ]
    log.tidy()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000


def test_a_file_that_another_process_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog(tmp_path, 20_000, 30)
    gone = tmp_path / "requests-20260101T000000000000-1.jsonl"
    gone.touch()
    listed = Path.iterdir

    def racing(folder: Path) -> Any:
        found = list(listed(folder))
        gone.unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", racing)
    log.tidy()
    assert not gone.exists()
    assert not caplog.records


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path, alter: Alter) -> None:
    (tmp_path / "file").touch()
    code, _, err = alter("endpoint", "tiny", "--log", "file/log")
    assert (code, "the request log cannot be written" in err) == (2, True)


def test_two_versions_are_held_against_each_other_on_what_came_and_what_differs_becomes_a_source(
    home: Path, tmp_path: Path, alter: Alter, tiny_backbone: Path, answers: dict[str, list[str]]
) -> None:
    folder = tmp_path / "log"
    with running(home, log=RequestLog(folder, 2**20, 30)) as one:
        one.ask(ROWS)
        one.ask(ROWS)
    logged = rows_of(folder)
    assert [(row["task"], row["input"]) for row in logged] == ROWS * 2
    assert [row["prediction"] for row in logged] == answers["tiny/1"] * 2
    assert {(row["domain"], row["version"]) for row in logged} == {("tiny", 1)}
    with next(folder.iterdir()).open("a") as file:
        file.write('{"domain": "other", "task": "t", "input": "x"}\n{"domain": "ti')

    code, out, err = alter("compare", "tiny", "1", "2", "--replay", "log", "--to-label", "label.jsonl", "--json")
    assert code == 0, err
    found = json.loads(out)
    differing = [row for row, a, b in zip(ROWS, *answers.values(), strict=True) if a != b]
    assert found["left_out"] == {"of another domain": 1, "no request, or cut off": 1}
    for name, task in found["tasks"].items():
        mine = [row for row in differing if row[0] == name]
        assert (task["requests"], task["rows"]) == (8, 4)
        assert (task["differing"], task["differing_requests"]) == (len(mine), 2 * len(mine))
    to_label = [json.loads(line) for line in (tmp_path / "label.jsonl").read_text().splitlines()]
    assert sorted((row["task"], row["input"]) for row in to_label) == sorted(differing)
    assert all(row["first"] != row["second"] and row["requests"] == 2 for row in to_label)

    kinds = {row["task"] for row in to_label}
    truth = {(task, row["input"]): row["target"] for task, lines in tiny_rows().items() for row in lines}
    lines = [json.dumps({**row, "target": truth[row["task"], row["input"]]}) + "\n" for row in to_label]
    (tmp_path / "domain").mkdir()
    (tmp_path / "domain" / "label.jsonl").write_text("".join(lines))
    spec = tiny_spec(tiny_backbone)
    spec["tasks"] = [
        {**task, "source": {"path": "label.jsonl", "where": {"task": task["name"]}}, "labels": labels}
        for task, labels in zip(spec["tasks"], (["red", "green", "blue"], ["yes", "no"], None), strict=True)
        if task["name"] in kinds
    ]
    spec["split"] = {"test": 0, "validation": 0}
    read = ingest(DomainSpec.model_validate(spec), tmp_path / "domain", Workspace(tmp_path / "workspace"))
    assert len(read.rows("train")) == len(to_label)

    code, out, _ = alter("compare", "tiny", "1", "2", "--replay", "log")
    assert (code, "left out: 1 row, of another domain" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--replay", "nothing"), "nothing is no request log"),
        (("--replay", "empty.jsonl"), "holds no request that both versions of tiny can be asked"),
        (("--to-label", "out.jsonl"), "--to-label goes with --replay"),
    ],
)
def test_a_log_that_cannot_be_replayed_is_told(alter: Alter, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "empty.jsonl").write_text('{"domain": "other", "task": "t", "input": "x"}\n')
    code, _, err = alter("compare", "tiny", "1", "2", *words)
    assert (code, said in err) == (2, True), err
