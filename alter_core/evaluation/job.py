"""The evaluation job: `python -m alter_core.evaluation.job JOB.json` scores several subjects in one process.

One process, because imports and prompts are paid once; a process of its own, so that running out of memory ends the
job and not the flow that started it.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from alter_core import job as jobs
from alter_core.errors import Stopped
from alter_core.spec import DomainSpec
from alter_core.whole import written_whole

if TYPE_CHECKING:  # torch comes in where a job is run, not where one is described
    from alter_core.evaluation.scorecard import Scorecard
    from alter_core.inference.predict import Prediction, Predictor

Row = Mapping[str, Any]
WRITE_SECONDS = 0.5


class Subject(BaseModel):
    """What is scored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """How progress rows call it."""
    bundle: str | None = None
    """Folder of a bundle; null: the backbone as it is, zero-shot."""
    output: str
    """Folder that gets scorecard.json and predictions.jsonl."""


class EvaluationJob(jobs.Job):
    """Everything that an evaluation needs, as JSON."""

    dataset: str
    """Folder of a TaskDataset."""
    spec: DomainSpec
    """The domain, with the dataset's labels filled in."""
    subjects: tuple[Subject, ...]
    """Scored in this order."""
    backbone: str
    """Folder of the converted backbone."""
    split: str = "test"
    """Which rows are scored; at most spec.evaluation.max_rows a task."""
    metrics: Path
    """JSON lines, appended: {"phase": "evaluate", "subject", "done", "total", "seconds_left"}; rows count over all
    subjects."""


def run(job: EvaluationJob, log: jobs.Log, stop_asked: jobs.StopAsked) -> "dict[str, Scorecard]":
    """Score every subject; each one's files are written as soon as it is done.

    Raises AlterError subclasses for a dataset, bundle or backbone that cannot be used, and Stopped when asked to stop.
    """
    # Heavy, and late for speed: a flow describes jobs, and a wrong job file is told at once.
    from alter_core.data.dataset import TaskDataset
    from alter_core.evaluation.baselines import majority_targets
    from alter_core.evaluation.scorecard import SCORECARD_FILE, Sample, score

    dataset = TaskDataset.open(Path(job.dataset))
    rows = chosen_rows(dataset, job.spec, job.split, job.spec.evaluation.max_rows)
    labelled = [task.name for task in job.spec.tasks if task.task_type.labelled]
    wanted = labelled if "majority" in job.spec.evaluation.baselines else []
    majority = majority_targets({name: dataset.rows("train", name)["target"] for name in wanted})
    report = _reporter(log, stop_asked, [subject.name for subject in job.subjects], len(rows))
    scorecards = {}
    for number, subject in enumerate(job.subjects):
        predictor = _predictor(subject, job)
        # An older bundle may lack a task that the domain has by now: it is scored on those that it has.
        own = [row for row in rows if row["task"] in predictor.spec.task_names]
        tasks, inputs = [row["task"] for row in own], [row["input"] for row in own]
        predictions = predictor.predict(tasks, inputs, partial(report, number))
        scorecard = score(predictions, own, job.spec, majority, job.spec.seed)
        if subject.bundle:
            # Rounding depends on what else is in a batch. These are what the bundle answers to just these rows, so
            # that whoever loads it can repeat them.
            shown = scorecard.samples
            again = predictor.predict([row.task for row in shown], [row.input for row in shown])
            samples = tuple(Sample.of(asdict(row), answer) for row, answer in zip(shown, again, strict=True))
            scorecard = replace(scorecard, samples=samples)
        scorecards[subject.name] = scorecard
        folder = Path(subject.output)
        write_predictions(folder / "predictions.jsonl", own, predictions)
        scorecard.write(folder / SCORECARD_FILE)
    return scorecards


def chosen_rows(dataset: Any, spec: DomainSpec, split: str, limit: int | None) -> list[Row]:
    """Rows of a split, at most `limit` a task, chosen by hash of their ids: a fair choice that stays as data grow."""
    chosen: list[Row] = []
    for task in spec.tasks:
        table = dataset.rows(split, task.name)
        places = list(range(len(table)))
        if limit is not None and limit < len(table):
            digests = [hashlib.sha256(str(row).encode()).digest() for row in table["id"]]
            places = sorted(sorted(places, key=digests.__getitem__)[:limit])
        chosen += list(table.select(places))
    return chosen


def write_predictions(path: Path, rows: Sequence[Row], predictions: "Sequence[Prediction]") -> None:
    """One JSON line per row: task, id, target, prediction, score, truncated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        for row, answer in zip(rows, predictions, strict=True):
            kept = {key: row[key] for key in ("task", "id", "target")}
            line = {**kept, "prediction": answer.text, "score": answer.score, "truncated": answer.truncated}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _predictor(subject: Subject, job: EvaluationJob) -> "Predictor":
    # Late as in `run`.
    from alter_core.backbone import load_backbone
    from alter_core.inference.predict import Predictor

    if subject.bundle is not None:
        return Predictor.from_bundle(subject.bundle, Path(job.backbone))

    model, tokenizer = load_backbone(Path(job.backbone))
    return Predictor.placed(model, tokenizer, job.spec, None)


def _reporter(
    log: jobs.Log, stop_asked: jobs.StopAsked, names: Sequence[str], rows: int
) -> Callable[[int, int, int], None]:
    """A function of (subject number, rows done, rows of the subject) that tells progress now and then.

    It raises Stopped when the process is to end.
    """
    total = rows * len(names)
    begin = last = time.monotonic()

    def report(number: int, done: int, _rows: int) -> None:
        nonlocal last
        if stop_asked():
            raise Stopped(f"evaluation was asked to stop; what is scored before {names[number]} is kept")
        now, all_done = time.monotonic(), number * rows + done
        if now - last < WRITE_SECONDS and done < rows:
            return
        last = now
        left = (now - begin) / max(all_done, 1) * (total - all_done)
        log(phase="evaluate", subject=names[number], done=all_done, total=total, seconds_left=left)

    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the command line names; returns the exit code."""
    return jobs.main(EvaluationJob, run, "evaluation", arguments)


if __name__ == "__main__":
    sys.exit(main())
