"""A trial: one arm trained once, at one rate and one seed, then scored. Kept under a key of all that it depends on."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BeforeValidator

from alter_core.ablation.arm import Arm
from alter_core.ablation.intervals import macro, row_table, seed_table
from alter_core.ablation.losses import RowLosses, row_losses
from alter_core.ablation.peft_arms import ADAPTERS, PeftHandle, PeftKind
from alter_core.backbone import backbone_digest, load_backbone
from alter_core.data.dataset import TaskDataset
from alter_core.errors import Diverged, Stopped
from alter_core.evaluation.baselines import BagOfWordsOrCopy
from alter_core.evaluation.rows import Row, chosen_rows
from alter_core.evaluation.scorecard import Scorecard, score
from alter_core.inference.predict import Predictor
from alter_core.job import Log, StopAsked
from alter_core.spec import DomainSpec
from alter_core.training.order import TrainingJob
from alter_core.training.result import RESULT_FILE, StageCost, StageResult, trained_in_all
from alter_core.training.run import job_key, run
from alter_core.training.subject import BUNDLE, MTAKind
from alter_core.whole import Result, digest_of, write_json

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
LOCK_SECONDS = 0.5  # between looks at whether to stop, while another process trains what this one needs
_TOTALS = ("trained_parameters", "seconds")


@dataclass(frozen=True)
class TrialCost:
    """What training took."""

    stages: Mapping[str, StageCost]
    """None for an arm that trains nothing."""

    @property
    def trained_parameters(self) -> int:
        """Those that any stage trained."""
        return trained_in_all(cost.trained_parts for cost in self.stages.values())

    @property
    def seconds(self) -> float:
        """Of the steps, in whichever process: an interrupted trial has several."""
        return sum((cost.train_seconds for cost in self.stages.values()), 0.0)

    def to_json(self) -> dict[str, object]:
        """Each stage's cost under its name, and with them the totals."""
        stages = {name: asdict(cost) for name, cost in self.stages.items()}
        return stages | {name: getattr(self, name) for name in _TOTALS}


def _without_totals(cost: object) -> object:
    """What `TrialCost.to_json` gave, as the fields of one."""
    if not isinstance(cost, dict):
        return cost
    stages = {name: {"trained_parts": {}, **held} for name, held in cost.items() if name not in _TOTALS}
    return {"stages": stages}  # an earlier release did not say which parts


WrittenCost = Annotated[TrialCost, BeforeValidator(_without_totals)]


@dataclass(frozen=True)
class Macro:
    """The macro score by row scores, as the table compares arms: of macro_f1 a row has none."""

    value: float | None
    """None where training diverged."""


@dataclass(frozen=True)
class Check(Result):
    """A trial on validation rows, as validation.json has it."""

    arm: str
    rate: float | None
    seed: int
    macro: Macro
    cost: WrittenCost = TrialCost({})
    precision: str | None = None
    """That it computed in; None where nothing trains."""
    diverged: str | None = None
    """Why there is no score."""

    def to_json(self) -> dict[str, Any]:
        facts = {**asdict(self), "cost": self.cost.to_json()}
        unsaid = ("cost", "precision") if self.diverged else ("diverged",)
        return {name: value for name, value in facts.items() if name not in unsaid}


def _losses_file(folder: Path, split: Split) -> Path:
    return folder / f"losses-{split}.json"


@dataclass(frozen=True)
class Bench:
    """What all trials of an ablation share."""

    spec: DomainSpec
    """With a precision that needs no measuring, so that all trials have the same."""
    dataset: TaskDataset
    backbone: Path
    folder: Path
    trunk_cache: Path
    code: str
    """Digest of the code that trains and scores: results of other code are not reused."""
    log: Log
    stop_asked: StopAsked
    screen: bool = False
    """Trials are held against each other by loss alone: nothing is answered."""


class Trial:
    """One arm at one rate and seed. What is done already is read, not done again."""

    def __init__(self, bench: Bench, arm: Arm, rate: float | None, seed: int) -> None:
        """rate: None for an arm that trains nothing."""
        self.bench = bench
        self.arm = arm
        self.rate = rate
        self.seed = seed
        self.spec = bench.spec if rate is None else arm.at(rate, seed)
        peft = (arm.peft.kind, arm.peft.rank) if arm.peft else None
        kept = self.spec.model_dump(mode="json", include={"mta", "precision", "evaluation", "seed"})
        kept["tasks"] = [task.content for task in self.spec.tasks]
        stages = self.spec.model_dump(mode="json", include={"stage_one", "stage_two"}) if rate is not None else None
        if arm.family == "instead":  # whatever the backbone, and whatever trains beside it
            kept = {part: kept[part] for part in ("tasks", "evaluation")}
            self.key = digest_of(arm.name, kept, bench.dataset.digest, bench.code)
        else:
            self.key = digest_of(kept, stages, peft, bench.dataset.digest, backbone_digest(bench.backbone), bench.code)
        self.folder = bench.folder / "trials" / self.key

    @cached_property
    def shared(self) -> Path | None:
        """Folder of a stage one that every arm with the same one begins with; None where stage one is all, and for
        models of peft."""
        if self.rate is None or self.arm.peft or self.spec.stages_end_with("stage_one"):
            return None
        job = self._job("stage_one", self.folder, None)
        key = digest_of(job_key(job, self.spec.stage_one, self.bench.dataset.digest), self.bench.code)
        return self.bench.folder / "stages" / key

    def has(self, split: Split) -> bool:
        """Tell whether the result on `split` is there already."""
        if self.bench.screen:
            return bool(self.losses(split) and (not self.shared or self.stage_one_losses(split)))
        kind: type[Result] = Check if split == "validation" else Scorecard
        return kind.read(self.folder / f"{split}.json") is not None

    def reach(self, split: Split) -> None:
        """Have the result on `split`; that on validation rows stands beside it, and alone where training diverged.

        Raises Diverged where trials are held against each other by loss alone.
        """
        if self.bench.screen:
            self._take_losses(split)
        elif not self.validation().diverged and split == "test":
            self.test()

    def score(self) -> float:
        """The macro score on validation rows; minus infinity where training diverged, which is worse than any.

        Minus the macro loss where trials are held against each other by that alone.
        """
        if self.bench.screen:
            losses = self.losses("validation")
            assert losses, "there once `reach` has returned"
            return -macro(seed_table([losses.tasks]))
        value = self.validation().macro.value
        return -math.inf if value is None else value

    def validation(self) -> Check:
        """The result on validation rows; trains first where that is not done yet."""
        done = Check.read(self.folder / "validation.json")
        if done:
            return done
        check = partial(Check, self.arm.name, self.rate, self.seed)
        try:
            trained = self._train()
        except Diverged as diverged:
            found = check(Macro(None), diverged=diverged.headline)
        else:
            card = self._score("validation")
            cost = TrialCost({stage: result.cost for stage, result in trained.items()})
            precision = next((result.precision for result in trained.values()), None)
            found = check(Macro(macro(row_table([card]))), cost, precision)
        found.write(self.folder / "validation.json")
        return found

    def test(self) -> Scorecard:
        """The scorecard on test rows; trains first where the weights are gone.

        It holds no row's text, so that trials can be kept where rows may not be.
        """
        done = Scorecard.read(self.folder / "test.json")
        if done:
            return done
        if not self._has_weights():
            self._train()
        card = self._score("test")
        kept = card.to_json()
        del kept["samples"]
        write_json(self.folder / "test.json", kept)
        return replace(card, samples=())

    def losses(self, split: Split) -> RowLosses | None:
        """Of the rows that are scored; None where nothing trains. They are there once the split's result is."""
        return RowLosses.read(_losses_file(self.folder, split))

    def stage_one_losses(self, split: Split) -> RowLosses | None:
        """Of the stage one that other arms may begin with as well; None where there is none."""
        return RowLosses.read(_losses_file(self.shared, split)) if self.shared else None

    def drop_weights(self) -> None:
        """Free the disk; the results stay, and so does a stage one that other arms may begin with."""
        for name in self.spec.stages:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _take_losses(self, split: Split) -> None:
        """Have the losses on `split`, those of a shared stage one too, and no answers. Raises Diverged."""
        if self.has(split):
            return
        if not self._has_weights():
            self._train()
        rows = self._rows(split)
        if self.shared and not self.stage_one_losses(split):
            before = Predictor.from_bundle(self.shared / BUNDLE, self.bench.backbone)
            self._write_losses(before, rows, _losses_file(self.shared, split))
        predictor = self._predictor()
        assert isinstance(predictor, Predictor)
        self._write_losses(predictor, rows, _losses_file(self.folder, split))

    def _write_losses(self, predictor: Predictor, rows: Sequence[Row], path: Path) -> None:
        bench = self.bench
        row_losses(predictor, rows, bench.trunk_cache, bench.log, bench.stop_asked).write(path)

    def _has_weights(self) -> bool:
        return self.rate is None or StageResult.read(self._last / RESULT_FILE) is not None

    @property
    def _last(self) -> Path:
        """Folder of the last stage; its result.json is written when all else there is whole."""
        return self.folder / list(self.spec.stages)[-1]

    def _train(self) -> dict[str, StageResult]:
        """Train what is not trained yet; the results by stage."""
        results: dict[str, StageResult] = {}
        if self.rate is None:
            return results
        kind = PeftKind(self.arm.peft) if self.arm.peft else MTAKind()
        start = None
        for stage in self.spec.stages:
            shared = self.shared if stage == "stage_one" else None
            output = shared or self.folder / stage
            job = self._job(stage, output, start)
            with self._alone(output) if shared else nullcontext():
                results[stage] = run(job, self.bench.log, self.bench.stop_asked, kind)
            start = output / BUNDLE
        return results

    def _job(self, stage: Literal["stage_one", "stage_two"], output: Path, start: Path | None) -> TrainingJob:
        return TrainingJob(
            stage=stage,
            spec=self.spec,
            dataset=self.bench.dataset.path,
            backbone=self.bench.backbone,
            start=start,
            output=output,
            checkpoints=output / "checkpoints",
            trunk_cache=self.bench.trunk_cache,
            metrics=self.folder / "metrics.jsonl",
            seed=self.seed,
        )

    @contextmanager
    def _alone(self, output: Path) -> Iterator[None]:
        """Hold a shared stage: of trials side by side one trains it, the others wait. Raises Stopped when asked to."""
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output.with_suffix(".lock"), is_singleton=False)
        while not lock.is_locked:
            if self.bench.stop_asked():
                raise Stopped("asked to stop while another process trained the stage one that this trial begins with")
            with suppress(Timeout):
                lock.acquire(timeout=LOCK_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def _rows(self, split: Split) -> list[Row]:
        limits = self.bench.spec.evaluation
        limit = limits.max_validation_rows if split == "validation" else limits.max_rows
        return chosen_rows(self.bench.dataset, self.bench.spec, split, limit)

    def _score(self, split: Split) -> Scorecard:
        predictor = self._predictor()
        rows = self._rows(split)
        tasks, inputs = [row["task"] for row in rows], [row["input"] for row in rows]
        answers = predictor.predict(
            tasks, inputs, lambda done, total: self.bench.log(phase=f"score {split}", done=done, total=total)
        )
        by = predictor.by if isinstance(predictor, BagOfWordsOrCopy) else None
        if self.rate is not None and isinstance(predictor, Predictor):
            self._write_losses(predictor, rows, _losses_file(self.folder, split))
        return score(answers, rows, self.bench.spec, seed=self.seed, by=by)

    def _predictor(self) -> Predictor | BagOfWordsOrCopy:
        if self.arm.family == "instead":
            return BagOfWordsOrCopy(self.bench.dataset, self.bench.spec)
        if self.rate is None:
            model, tokenizer = load_backbone(self.bench.backbone)
            return Predictor.placed(model, tokenizer, self.bench.spec, None)
        if self.arm.peft:
            handle = PeftHandle(self.bench.backbone, self.spec, self.arm.peft)
            handle.load(self._last / ADAPTERS)
            return Predictor.placed(handle.model, handle.tokenizer, self.spec, handle)
        return Predictor.from_bundle(self._last / BUNDLE, self.bench.backbone)
