"""A job's rows are followed as they come, and however it ends, a person learns why."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from alter_core import process as jobs
from alter_core.errors import AlterError, Stopped, TrainingError, WorkspaceError
from alter_core.job import Job
from alter_core.process import end_leftovers, run_job

PRELUDE = """
import json, os, signal, sys, time
job = json.load(open(sys.argv[1]))
def row(**values):
    with open(job["metrics"], "a") as file:
        file.write(json.dumps(values) + "\\n")
"""


def run(tmp_path: Path, script: str, on_row: Any = None, **more: Any) -> list[dict[str, Any]]:
    program = tmp_path / "job.py"
    program.write_text(PRELUDE + script, encoding="utf-8")
    rows: list[dict[str, Any]] = []
    job = Job(metrics=tmp_path / "metrics.jsonl")
    on_row = on_row or (lambda row: rows.append(dict(row)))
    run_job([sys.executable, str(program)], job, tmp_path / "out", on_row, **more)
    return rows


def test_rows_arrive_in_order_and_whole(tmp_path: Path) -> None:
    rows = run(tmp_path, "for i in range(50): row(phase='train', step=i)")
    assert [row["step"] for row in rows] == list(range(50))


def test_a_resumed_job_gives_only_its_new_rows(tmp_path: Path) -> None:
    run(tmp_path, "row(phase='train', step=1)")
    assert [row["step"] for row in run(tmp_path, "row(phase='train', step=2)")] == [2]


def test_a_row_written_in_two_parts_is_read_once_whole(tmp_path: Path) -> None:
    script = """
with open(job["metrics"], "a") as file:
    file.write('{"phase": "tr'); file.flush(); time.sleep(0.6); file.write('ain"}\\n')
"""
    assert run(tmp_path, script) == [{"phase": "train"}]


def test_the_jobs_own_message_is_raised(tmp_path: Path) -> None:
    script = "row(phase='error', headline='no rows', problems=['task a']); sys.exit(2)"
    with pytest.raises(AlterError, match="no rows") as caught:
        run(tmp_path, script)
    assert caught.value.problems == ("task a",)


def test_wrong_input_stays_so_where_a_launcher_ends_with_1(tmp_path: Path) -> None:
    with pytest.raises(AlterError, match="no rows") as caught:
        run(tmp_path, "row(phase='error', headline='no rows', problems=[], exit_code=2); sys.exit(1)")
    assert caught.value.exit_code == 2


def test_a_launcher_does_not_start_again_what_would_end_so_again(tmp_path: Path) -> None:
    with pytest.raises(AlterError, match="no rows"):
        run(tmp_path, "row(phase='error', headline='no rows', problems=[], exit_code=2); time.sleep(120)")


def test_a_job_that_ends_without_a_result_is_no_wrong_input(tmp_path: Path) -> None:
    script = "row(phase='error', headline='the loss is nan', problems=[], exit_code=1); sys.exit(1)"
    with pytest.raises(TrainingError, match="the loss is nan") as caught:
        run(tmp_path, script)
    assert caught.value.exit_code == 1


def test_a_crash_shows_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="exit code 1") as caught:
        run(tmp_path, "raise RuntimeError('the reason')")
    assert any("the reason" in line for line in caught.value.problems)


def test_a_killed_job_is_explained_by_memory(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="memory ran out"):
        run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")


def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="disk is full"):
        run(tmp_path, "open('/dev/full', 'w').write('x' * 100_000)")


def test_a_job_that_a_killed_flow_left_behind_is_ended(tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "stage_one"
    folder.mkdir(parents=True)
    sleeper = [sys.executable, "-c", "import time; time.sleep(120)"]
    left = subprocess.Popen([*sleeper, str(folder / "job.json")])
    other = subprocess.Popen([*sleeper, str(tmp_path / "other" / "stage_one" / "job.json")])
    beside = subprocess.Popen([*sleeper, str(tmp_path / "tiny" / "ablation" / "trials" / "a" / "job.json")])
    try:
        assert end_leftovers(tmp_path / "tiny", beside=tmp_path / "tiny" / "ablation") == 1
        assert not psutil.pid_exists(left.pid)
        assert other.poll() is None
        assert beside.poll() is None
    finally:
        for process in (left, other, beside):
            process.kill()
            process.wait()


def test_the_rows_of_a_job_that_is_quicker_than_its_reader_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = subprocess.Popen

    def ended(*given: Any, **more: Any) -> Any:
        process = started(*given, **more)
        process.wait()
        return process

    monkeypatch.setattr("alter_core.process.subprocess.Popen", ended)
    assert [row["step"] for row in run(tmp_path, 'row(phase="train", step=1)')] == [1]


def test_leaving_early_stops_the_job_and_its_children(tmp_path: Path) -> None:
    script = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
row(phase="train", pids=[os.getpid(), child.pid])
time.sleep(120)
"""
    pids: list[int] = []

    def stop(row: Any) -> None:
        pids.extend(row["pids"])
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, script, stop)
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
    assert time.monotonic() - begin < 60  # it was asked, and did not have to be killed


def test_of_a_step_that_was_done_again_the_later_row_counts(tmp_path: Path) -> None:
    lines = [
        '{"phase": "train", "step": 1, "loss": 3}',
        '{"phase": "train", "step": 2, "loss": 2}',
        '{"phase": "tr',
        '{"phase": "train", "step": 1, "loss": 1}',
        '{"phase": "eval", "step": 9}',
    ]
    (tmp_path / "m").write_text("\n".join(lines))
    assert [(row["step"], row["loss"]) for row in jobs.step_rows(tmp_path / "m")] == [(1, 1), (2, 2)]


def test_a_job_that_was_asked_to_stop_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"was asked to stop \(SIGTERM\)"):
        run(tmp_path, "sys.exit(143)")


def test_a_job_that_does_not_stop_when_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "STOP_SECONDS", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(90)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    begin = time.monotonic()
    jobs.stop_tree(process)
    assert time.monotonic() - begin < 60


def test_a_job_that_waits_for_one_hands_a_stop_on_and_stops(tmp_path: Path) -> None:
    up = tmp_path / "up"
    script = f"""
def end(*_):
    open({str(tmp_path / "asked")!r}, "w"); sys.exit(143)
signal.signal(signal.SIGTERM, end)
open({str(up)!r}, "w"); time.sleep(120)
"""
    with pytest.raises(Stopped, match="the trial was asked to stop"):
        run(tmp_path, script, what="the trial", stop_asked=up.exists)
    assert (tmp_path / "asked").exists()


def test_a_job_that_waits_for_one_stops_when_that_one_was_asked_to(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, "sys.exit(143)", stop_asked=lambda: False)


def test_a_job_whose_rows_are_not_followed_is_explained_by_its_log(tmp_path: Path) -> None:
    program = tmp_path / "job.py"
    program.write_text(PRELUDE + "row(phase='error', headline='x', problems=[]); print('the reason'); sys.exit(2)")
    with pytest.raises(TrainingError, match=r"the trial ended with exit code 2(.|\n)*the reason"):
        run_job([sys.executable, str(program)], Job(metrics=tmp_path / "m"), tmp_path / "out", None, what="the trial")
