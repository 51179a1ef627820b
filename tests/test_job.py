"""A job's own side: what a job file may be, what the process tells, and the code that it ends with."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from alter_core.errors import SpecError, Stopped, TrainingError
from alter_core.job import Job, Log, Metrics, StopAsked, main


class Tiny(Job):
    """A job of this test."""

    steps: int


def ended(tmp_path: Path, run: Any = lambda *_: None, **values: Any) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and rows of a job with these values."""
    file, metrics = tmp_path / "job.json", tmp_path / "deep" / "metrics.jsonl"
    file.write_text(json.dumps({"metrics": str(metrics), "steps": 1, **values}))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        code = main(Tiny, run, "tiny", [str(file)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return code, [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


def test_a_job_that_is_done_ends_with_0_and_its_rows(tmp_path: Path) -> None:
    code, rows = ended(tmp_path, lambda job, log, _: log(phase="train", step=job.steps))
    assert code == 0
    assert [(row["phase"], row["step"]) for row in rows] == [("train", 1)]
    assert rows[0]["time"] > 0


@pytest.mark.parametrize(("error", "code"), [(SpecError("no rows", ["task a"]), 2), (TrainingError("the loss"), 1)])
def test_an_error_is_a_row_and_the_code(
    error: SpecError | TrainingError, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    found, [row] = ended(tmp_path, fail)
    assert (found, row["exit_code"]) == (code, code)
    assert (row["phase"], row["headline"], tuple(row["problems"])) == ("error", error.headline, error.problems)
    assert capsys.readouterr().err == f"{error}\n"


def test_sigterm_asks_the_job_to_stop(tmp_path: Path) -> None:
    def run(_job: Tiny, log: Log, stop_asked: StopAsked) -> None:
        assert not stop_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        log(phase="kept")
        if stop_asked():
            raise Stopped("it goes on from there")

    code, rows = ended(tmp_path, run)
    assert code == 143
    assert [row["phase"] for row in rows] == ["kept"]


def test_every_problem_of_a_job_file_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(tmp_path, steps="many", colour="red") == (2, [])
    told = capsys.readouterr().err
    assert "is no tiny job" in told
    assert "steps: " in told
    assert "colour: " in told


def test_of_several_processes_the_main_one_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        Metrics(tmp_path / "metrics.jsonl")(phase="train", rank=rank)
    [row] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row)["rank"] == "0"
