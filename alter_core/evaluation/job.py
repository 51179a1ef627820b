"""The evaluation job: `python -m alter_core.evaluation.job JOB.json` scores several subjects in one process.

One process, because imports and prompts are paid once; a process of its own, so that running out of memory ends the
job and not the flow that started it.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from alter_core import job as jobs
from alter_core.errors import Stopped
from alter_core.evaluation.rows import Row, chosen_rows, rows_of
from alter_core.spec import DomainSpec
from alter_core.whole import written_whole

if TYPE_CHECKING:  # torch comes in where a job is run, not where one is described
    from alter_core.evaluation.scorecard import Scorecard
    from alter_core.inference.predict import Prediction

WRITE_SECONDS = 0.5


class Subject(BaseModel):
    """What is scored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """How progress rows call it."""
    bundle: str | None = None
    """Folder of a bundle; null: the backbone as it is, zero-shot."""
    kind: Literal["model", "bag_of_words"] = "model"
    """bag_of_words: no model, but what a user would take instead of one, as `BagOfWordsOrCopy` says."""
    output: str
    """Folder that gets scorecard.json and predictions.jsonl."""


class EvaluationJob(jobs.Job):
    """Everything that an evaluation needs, as JSON."""

    dataset: str
    """Folder of a TaskDataset, whose test rows are scored; at most spec.evaluation.max_rows a task."""
    spec: DomainSpec
    """The domain, with the dataset's labels filled in."""
    subjects: tuple[Subject, ...]
    """Scored in this order."""
    backbone: str
    """Folder of the converted backbone."""
    calibrate: str | None = None
    """The subject whose label tasks get their temperatures from validation rows; the others have their bundles'."""
    answers: Path | None = None
    """Folder of answers that are kept from one job to the next, of the same code."""
    metrics: Path
    """JSON lines, appended: {"phase": "evaluate", "task", "done", "total", "seconds_left"}; rows count over all
    subjects."""


def run(job: EvaluationJob, log: jobs.Log, stop_asked: jobs.StopAsked) -> "dict[str, Scorecard]":
    """Score every subject, task by task; what is answered is kept also where the job ends early.

    Raises AlterError subclasses for a dataset, bundle or backbone that cannot be used, and Stopped when asked to stop.
    """
    # Heavy, and late for speed: a flow describes jobs, and a wrong job file is told at once.
    from alter_core.data.dataset import TaskDataset
    from alter_core.evaluation.baselines import BagOfWordsOrCopy, majority_targets
    from alter_core.evaluation.calibration import at, calibrate
    from alter_core.evaluation.kept import KeptAnswers
    from alter_core.evaluation.model import Model
    from alter_core.evaluation.scorecard import Sample, score
    from alter_core.inference.together import Together

    dataset = TaskDataset.open(Path(job.dataset))
    rows = chosen_rows(dataset, job.spec, "test", job.spec.evaluation.max_rows)
    labelled = [task.name for task in job.spec.tasks if task.task_type.labelled]
    wanted = labelled if "majority" in job.spec.evaluation.baselines else []
    majority = majority_targets({name: dataset.rows("train", name)["target"] for name in wanted})
    scorecards = {}
    for subject in (each for each in job.subjects if each.kind == "bag_of_words"):
        instead = BagOfWordsOrCopy(dataset, job.spec)
        predictions = instead.predict([row["task"] for row in rows], [row["input"] for row in rows])
        scorecards[subject.name] = score(predictions, rows, job.spec, majority, job.spec.seed, instead.by)
        _write(Path(subject.output), rows, predictions, scorecards[subject.name])
    subjects = [each for each in job.subjects if each.kind == "model"]
    if not subjects:
        return scorecards
    models = {each.name: Model.of(each.bundle, Path(job.backbone), job.spec) for each in subjects}
    together, kept = Together([model.predictor for model in models.values()]), KeptAnswers(job.answers)
    own = {name: [row for row in rows if row["task"] in model.tasks] for name, model in models.items()}
    calibrated, most = models.get(job.calibrate or ""), job.spec.evaluation.max_validation_rows
    known = {
        name: rows_of(dataset, name, "validation", most) for name in labelled if calibrated and name in calibrated.tasks
    }
    tell = _reporter(log, stop_asked, sum(map(len, [*own.values(), *known.values()])))

    def ask(task: str, inputs: Sequence[str], having: Sequence[Model]) -> None:
        asked = {model.key(task): model.predictor for model in having}
        missing = {key: kept.missing(key, inputs) for key in asked}
        tell(task, len(inputs) * len(having) - sum(map(len, missing.values())))
        for places in {given for given in missing.values() if given}:
            keys = [key for key, given in missing.items() if given == places]
            texts = [inputs[place] for place in places]
            found = together.predict([asked[key] for key in keys], [task] * len(texts), texts, partial(tell, task))
            for key, answers in zip(keys, found, strict=True):
                kept.add(key, dict(zip(texts, answers, strict=True)))
        kept.write()

    for task in job.spec.task_names:
        having = [model for model in models.values() if task in model.tasks]
        ask(task, [row["input"] for row in rows if row["task"] == task], having)
        if calibrated and task in known:
            ask(task, list(known[task]["input"]), [calibrated])
    for subject in subjects:
        model, mine = models[subject.name], own[subject.name]
        by_task = {name: [row for row in mine if row["task"] == name] for name in job.spec.task_names}
        answered = {
            name: kept.of(model.key(name), [row["input"] for row in its]) for name, its in by_task.items() if its
        }
        calibrations = {}
        if model is calibrated:
            calibrations = {
                name: calibrate(
                    kept.of(model.key(name), held["input"]),
                    held["target"],
                    answered[name],
                    [row["target"] for row in by_task[name]],
                )
                for name, held in known.items()
                if by_task[name]
            }
            fitted = {name: found.temperature for name, found in calibrations.items()}
            model.predictor.temperatures = {name: value for name, value in fitted.items() if value is not None}
        temperatures = model.predictor.temperatures
        in_turn = {name: iter(at(answers, temperatures.get(name, 1.0))) for name, answers in answered.items()}
        predictions = [next(in_turn[row["task"]]) for row in mine]
        scorecard = score(predictions, mine, job.spec, majority, job.spec.seed, calibrations=calibrations)
        if subject.bundle:
            # Rounding depends on what else is in a batch. These are what the bundle answers to just these rows, so
            # that whoever loads it can repeat them.
            shown = scorecard.samples
            again = model.predictor.predict([row.task for row in shown], [row.input for row in shown])
            samples = tuple(Sample.of(asdict(row), answer) for row, answer in zip(shown, again, strict=True))
            scorecard = replace(scorecard, samples=samples)
        scorecards[subject.name] = scorecard
        _write(Path(subject.output), mine, predictions, scorecard)
    return scorecards


def _write(folder: Path, rows: Sequence[Row], predictions: "Sequence[Prediction]", scorecard: "Scorecard") -> None:
    """The scorecard and, before it, one JSON line per row: task, id, target, prediction, score, truncated."""
    from alter_core.evaluation.scorecard import SCORECARD_FILE  # late as in `run`

    path = folder / "predictions.jsonl"
    with written_whole(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        for row, answer in zip(rows, predictions, strict=True):
            kept = {key: row[key] for key in ("task", "id", "target")}
            line = {**kept, "prediction": answer.text, "score": answer.score, "truncated": answer.truncated}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    scorecard.write(folder / SCORECARD_FILE)


def _reporter(log: jobs.Log, stop_asked: jobs.StopAsked, total: int) -> Callable[[str, int], None]:
    """A function of (task, rows done since the last call) that tells progress now and then.

    It raises Stopped when the process is to end.
    """
    begin = last = time.monotonic()
    done = 0

    def report(task: str, count: int) -> None:
        nonlocal last, done
        if stop_asked():
            raise Stopped("evaluation was asked to stop; what is answered is kept")
        done += count
        now = time.monotonic()
        if now - last < WRITE_SECONDS and done < total:
            return
        last = now
        left = (now - begin) / max(done, 1) * (total - done)
        log(phase="evaluate", task=task, done=done, total=total, seconds_left=left)

    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the command line names; returns the exit code."""
    return jobs.main(EvaluationJob, run, "evaluation", arguments)


if __name__ == "__main__":
    sys.exit(main())
