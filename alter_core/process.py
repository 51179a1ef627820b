"""Run a job as a process of its own, follow what it writes, stop it, and explain how it ended."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from alter_core.errors import AlterError, Stopped, TrainingError, WorkspaceError
from alter_core.job import MACHINES, TERMINATED, Job, StopAsked
from alter_core.whole import write_json

Row = Mapping[str, Any]
POLL_SECONDS = 0.25
STOP_SECONDS = 20  # for a job to finish its step and write a checkpoint; Prefect kills a cancelled run after 30
JOB_FILE = "job.json"


def step_rows(metrics: Path) -> list[Row]:
    """The rows of a stage's steps, in order; of a step that was done again after a kill, the last."""
    by_step = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # a disk that was full for a while leaves half a row
            row = json.loads(line)
            if row["phase"] == "train":
                by_step[row["step"]] = row
    return [by_step[step] for step in sorted(by_step)]


def run_job(
    command: Sequence[str],
    job: Job,
    folder: Path,
    on_row: Callable[[Row], None] | None,
    *,
    what: str = "the job",
    stop_asked: StopAsked | None = None,
    threads: int | None = None,
) -> None:
    """Write `job` to folder/job.json, run `command` on it, and call `on_row` for each row the job appends to metrics.

    on_row: None for a job that shares its metrics with others, whose rows they are as well. what: for messages.
    stop_asked: of a caller that is a job itself. threads: of computation; unset, as many as there are cores.
    The process stays in our process group, so that cancelling a flow run reaches it; whatever ends this function
    early (SIGTERM, Ctrl-C) stops the process first. A job that finds its input wrong says so in a row of phase `error`,
    raised here as AlterError; any other failure raises TrainingError with the end of the job's log. Raises Stopped when
    `stop_asked` says so, or where it is given and the process was asked to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, log, metrics = folder / JOB_FILE, folder / "log.txt", job.metrics if on_row else None
    write_json(file, job.model_dump(mode="json"))
    # Before it starts: its first row may come at once.
    position = metrics.stat().st_size if metrics and metrics.exists() else 0
    share = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with log.open("ab") as sink:
        begin = sink.tell()
        process = subprocess.Popen(
            [*command, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**share, **os.environ, "PYTHONUNBUFFERED": "1"},
        )
    stopped = Stopped(f"{what} was asked to stop; it goes on from there")
    error: Row | None = None
    try:
        for row in _rows(metrics, process, position):
            if row is None:
                if stop_asked and stop_asked():
                    raise stopped
            elif row.get("phase") == "error":
                error = row
                stop_tree(process)  # a launcher may start it again, and it would end so again
            elif on_row:
                on_row(row)
    except BaseException:
        stop_tree(process)
        end_leftovers(folder)  # where the launcher got the signal first, its child is nobody's
        raise
    if stop_asked and process.returncode == TERMINATED:
        raise stopped
    if process.returncode or error:
        raise _explained(process.returncode, log, begin, error, what)


def end_leftovers(folder: Path, beside: Path | None = None) -> int:
    """Stop jobs that still work under `folder`, and give their number: the flow that started them was killed.

    For the one who holds the lock of `folder`: then no living flow waits for such a job, and two would write one
    folder. beside: a folder in it with a lock of its own, whose jobs are left alone.
    """
    left = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or ()
        jobs = [Path(word) for word in command if word.endswith(f"/{JOB_FILE}")]
        own = [job for job in jobs if job.is_relative_to(folder) and not (beside and job.is_relative_to(beside))]
        if process.pid != os.getpid() and own:
            left.append(process)
    _end(left)
    return len(left)


def training_command(module: str, processes: int) -> list[str]:
    """Torch's own launcher of a module on this machine, on GPUs where there are any, else on CPUs.

    Where MACHINES says more than one, the launcher waits for the others as its other variables tell it.
    `accelerate launch` hands over to it for GPUs alone: on CPUs it asks for MPI, and starts one process without. One
    process needs no launcher, which would import torch a second time and hide how the process ended.
    """
    alone = os.environ.get(MACHINES, "1") == "1"
    if processes == 1 and alone:
        return module_command(module)
    launcher = [*module_command("torch.distributed.run"), *(["--standalone"] if alone else [])]
    return [*launcher, f"--nproc-per-node={processes}", "-m", module]


def module_command(module: str) -> list[str]:
    """A module in this environment's Python."""
    return [sys.executable, "-m", module]


def _rows(metrics: Path | None, process: "subprocess.Popen[bytes]", position: int) -> Iterator[Row | None]:
    """Rows as they are appended after `position`, until the process has ended and the file is read to its end; None
    before each wait for more."""
    rest = b""
    ended = False
    while True:
        if metrics and metrics.exists():
            with metrics.open("rb") as file:
                file.seek(position)
                chunk = file.read()
            position += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if ended:
            return
        ended = process.poll() is not None
        if not ended:
            yield None
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)


def stop_tree(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to a process and to what it started: launchers do not hand the signal on to their children."""
    if process.poll() is None:
        _end([*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)])
        process.wait()


def _end(processes: Sequence[psutil.Process]) -> None:
    for member in processes:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(processes, STOP_SECONDS)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, STOP_SECONDS)


def _explained(code: int, log: Path, begin: int, error: Row | None, what: str) -> AlterError:
    """The job's own words where it left some; otherwise how it ended and the last lines of its log."""
    if error is not None:
        # In the row, because a launcher of several processes ends with 1 whatever theirs was.
        kind = TrainingError if error.get("exit_code", code) == TrainingError.exit_code else AlterError
        return kind(error["headline"], error["problems"])
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    tail = list(deque((line for line in text.splitlines() if line.strip()), maxlen=8))
    # A launcher reports its child's signal in words and ends with code 1 itself.
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL) or "SIGKILL" in text:
        return TrainingError(
            f"{what} was killed (SIGKILL), most often because memory ran out; its log is {log}. Free some memory and "
            "run again: what is done is kept. Or raise the stage's accumulate in the spec: training needs less memory "
            "then, and the stage begins anew",
            tail,
        )
    if os.strerror(errno.ENOSPC) in text:
        return WorkspaceError(
            f"the disk is full: {what} could not write under {log.parent}. Free some space (`alter gc` shows what may "
            "go), then run again: what is done is kept",
            tail[-1:],
        )
    how = f"ended with exit code {code}"
    if code == TERMINATED:
        how = "was asked to stop (SIGTERM)"
    elif code < 0:
        how = f"was ended by a signal ({signal.strsignal(-code) or -code})"
    return TrainingError(
        f"{what} {how}; its log is {log}. Run again once the reason is mended: what is done is kept", tail
    )
