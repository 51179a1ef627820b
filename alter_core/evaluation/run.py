"""What an evaluation job does: its subjects are asked task by task, and then scored by their answers."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from alter_core.data.dataset import TaskDataset
from alter_core.errors import Stopped
from alter_core.evaluation.baselines import BagOfWordsOrCopy, majority_targets
from alter_core.evaluation.calibration import at, calibrate
from alter_core.evaluation.doubtful import doubted
from alter_core.evaluation.kept import KeptAnswers
from alter_core.evaluation.model import Model
from alter_core.evaluation.order import EvaluationJob
from alter_core.evaluation.rows import Row, rows_of
from alter_core.evaluation.scorecard import SCORECARD_FILE, Sample, Scorecard, score
from alter_core.inference.predict import Predictor
from alter_core.inference.prediction import Prediction
from alter_core.inference.together import Together
from alter_core.job import Log, StopAsked
from alter_core.mta.modes import forget_formed
from alter_core.whole import written_whole

WRITE_SECONDS = 0.5


def run(job: EvaluationJob, log: Log, stop_asked: StopAsked) -> dict[str, Scorecard]:
    """Score every subject, task by task; what is answered is kept also where the job ends early.

    Raises AlterError subclasses for a dataset, bundle or backbone that cannot be used, and Stopped when asked to stop.
    """
    spec, dataset = job.spec, TaskDataset.open(Path(job.dataset))
    rows = {name: list(rows_of(dataset, name, "test", spec.evaluation.max_rows)) for name in spec.task_names}
    labelled = [task.name for task in spec.tasks if task.task_type.labelled]
    wanted = labelled if "majority" in spec.evaluation.baselines else []
    majority = majority_targets({name: dataset.rows("train", name)["target"] for name in wanted})
    scored = partial(score, spec=spec, majority=majority, seed=spec.seed)
    scorecards = {}
    for subject in (each for each in job.subjects if each.kind == "bag_of_words"):
        instead, every = BagOfWordsOrCopy(dataset, spec), _together(rows)
        predictions = instead.predict([row["task"] for row in every], [row["input"] for row in every])
        scorecards[subject.name] = scored(predictions, every, by=instead.by)
        _write(Path(subject.output), every, predictions, scorecards[subject.name])
    subjects = [each for each in job.subjects if each.kind == "model"]
    if not subjects:
        return scorecards

    models = {each.name: Model.of(each.bundle, Path(job.backbone), spec) for each in subjects}
    own = {name: {t: its for t, its in rows.items() if t in model.tasks} for name, model in models.items()}
    calibrated, most = models.get(job.calibrate or ""), spec.evaluation.max_validation_rows
    known = {
        name: rows_of(dataset, name, "validation", most) for name in labelled if calibrated and name in calibrated.tasks
    }
    tell = _reporter(log, stop_asked, sum(map(len, [*map(_together, own.values()), *known.values()])))
    answers = _Answers(Together([model.predictor for model in models.values()]), KeptAnswers(job.answers), tell)
    for task, its in rows.items():
        answers.ask(task, [row["input"] for row in its], [model for model in models.values() if task in model.tasks])
        if calibrated and task in known:
            answers.ask(task, list(known[task]["input"]), [calibrated])
    for subject in subjects:
        model, mine = models[subject.name], {task: its for task, its in own[subject.name].items() if its}
        answered = {task: answers.of(model, task, [row["input"] for row in its]) for task, its in mine.items()}
        calibrations, doubts = {}, {}
        if model is calibrated:
            for task in (name for name in known if name in mine):
                seen = answers.of(model, task, known[task]["input"])
                right = [row["target"] for row in mine[task]]
                asked = spec.task(task).abstain_precision
                calibrations[task] = calibrate(seen, known[task]["target"], answered[task], right, asked)
                tempered = at([*seen, *answered[task]], calibrations[task].temperature or 1.0)
                doubts[task] = doubted(dataset, task, [*known[task], *mine[task]], tempered)
            fitted = {task: found.temperature for task, found in calibrations.items()}
            model.predictor.temperatures = {task: value for task, value in fitted.items() if value is not None}
        temperatures = model.predictor.temperatures
        predictions = [one for task, its in answered.items() for one in at(its, temperatures.get(task, 1.0))]
        scorecard = scored(predictions, _together(mine), calibrations=calibrations, doubts=doubts)
        if subject.bundle:
            scorecard = replace(scorecard, samples=_answered_alone(scorecard.samples, model.predictor))
        scorecards[subject.name] = scorecard
        _write(Path(subject.output), _together(mine), predictions, scorecard)
    return scorecards


@dataclass(frozen=True)
class _Answers:
    """Of models to rows: each is computed once, by all models that lack it together."""

    together: Together
    kept: KeptAnswers
    tell: Callable[[str, int], None]

    def ask(self, task: str, inputs: Sequence[str], models: Sequence[Model]) -> None:
        """Have the answers of `models` to `inputs`."""
        asked = {model.key(task): model.predictor for model in models}
        missing = {key: self.kept.missing(key, inputs) for key in asked}
        self.tell(task, len(inputs) * len(models) - sum(map(len, missing.values())))
        for places in {given for given in missing.values() if given}:
            keys = [key for key, given in missing.items() if given == places]
            texts = [inputs[place] for place in places]
            told = partial(self.tell, task)
            found = self.together.predict([asked[key] for key in keys], [task] * len(texts), texts, told)
            for model in models:
                forget_formed(model.predictor.model)
            for key, answers in zip(keys, found, strict=True):
                self.kept.add(key, dict(zip(texts, answers, strict=True)))
        self.kept.write()

    def of(self, model: Model, task: str, inputs: Sequence[str]) -> list[Prediction]:
        """The answers of a model that was asked."""
        return self.kept.of(model.key(task), inputs)


def _together(rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    return [row for its in rows.values() for row in its]


def _answered_alone(samples: Sequence[Sample], predictor: Predictor) -> tuple[Sample, ...]:
    """Rounding depends on what else is in a batch. These are what the bundle answers to just these rows, so that
    whoever loads it can repeat them."""
    again = predictor.predict([row.task for row in samples], [row.input for row in samples])
    forget_formed(predictor.model)
    return tuple(Sample.of(asdict(row), answer) for row, answer in zip(samples, again, strict=True))


def _write(folder: Path, rows: Sequence[Row], predictions: Sequence[Prediction], scorecard: Scorecard) -> None:
    """The scorecard and, before it, one JSON line per row: task, id, target, prediction, score, truncated."""
    path = folder / "predictions.jsonl"
    with written_whole(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        for row, answer in zip(rows, predictions, strict=True):
            kept = {key: row[key] for key in ("task", "id", "target")}
            line = {**kept, "prediction": answer.text, "score": answer.score, "truncated": answer.truncated}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    scorecard.write(folder / SCORECARD_FILE)


def _reporter(log: Log, stop_asked: StopAsked, total: int) -> Callable[[str, int], None]:
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
