"""A trial: one arm trained once, at one rate and one seed, then scored. Kept under a key of all that it depends on."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from alter_core.ablation.arms import Arm
from alter_core.ablation.intervals import macro, row_table
from alter_core.ablation.peft_arms import ADAPTERS, PeftHandle, PeftKind
from alter_core.backbone import backbone_digest, load_backbone
from alter_core.errors import Diverged
from alter_core.evaluation.job import chosen_rows
from alter_core.evaluation.scorecard import score
from alter_core.inference.predict import Predictor
from alter_core.spec import DomainSpec
from alter_core.training.order import TrainingJob
from alter_core.training.result import RESULT_FILE, StageResult, trained_in_all
from alter_core.training.run import run
from alter_core.training.subject import BUNDLE, MTAKind
from alter_core.whole import digest_of, write_json

Log = Callable[..., None]
Facts = dict[str, Any]
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Bench:
    """What all trials of an ablation share."""

    spec: DomainSpec
    """With a precision that needs no measuring, so that all trials have the same."""
    dataset: Any
    """A TaskDataset."""
    backbone: Path
    folder: Path
    trunk_cache: Path
    code: str
    """Digest of the code that trains and scores: results of other code are not reused."""
    log: Log
    stop_asked: Callable[[], bool]


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
        self.key = digest_of(kept, stages, peft, bench.dataset.digest, backbone_digest(bench.backbone), bench.code)
        self.folder = bench.folder / "trials" / self.key

    def has(self, split: Split) -> bool:
        """Tell whether the result on `split` is there already."""
        return read_facts(self.folder / f"{split}.json") is not None

    def result(self, split: Split) -> Facts:
        """`validation` or `test`; the first stands beside the second, and alone where training diverged."""
        facts = self.validation()
        return facts if split == "validation" or "diverged" in facts else self.test()

    def score(self) -> float:
        """The macro score on validation rows; minus infinity where training diverged, which is worse than any."""
        value = self.validation()["macro"]["value"]
        return -math.inf if value is None else float(value)

    def validation(self) -> Facts:
        """{macro, cost, precision}: the macro score on validation rows; trains first where that is not done yet.

        Training that diverged gives {diverged: why} and the macro score None.
        """
        done = read_facts(self.folder / "validation.json")
        if done:
            return done
        facts: Facts = {"arm": self.arm.name, "rate": self.rate, "seed": self.seed}
        try:
            trained = self._train()
        except Diverged as diverged:
            facts |= {"macro": {"value": None}, "diverged": diverged.headline}
            write_json(self.folder / "validation.json", facts)
            return facts
        card = self._score("validation", self.bench.spec.evaluation.max_validation_rows)
        # By row scores, as the table compares arms: of macro_f1 a row has none.
        facts |= {"macro": {"value": macro(row_table([card]))}, **trained}
        write_json(self.folder / "validation.json", facts)
        return facts

    def test(self) -> Facts:
        """The scorecard on test rows, as JSON; trains first where the weights are gone.

        It holds no row's text, so that trials can be kept where rows may not be.
        """
        done = read_facts(self.folder / "test.json")
        if done:
            return done
        if not self._has_weights():
            self._train()
        card = self._score("test", self.bench.spec.evaluation.max_rows)
        del card["samples"]
        write_json(self.folder / "test.json", card)
        return card

    def drop_weights(self) -> None:
        """Free the disk; the results stay."""
        for name in self.spec.stages:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _has_weights(self) -> bool:
        return self.rate is None or StageResult.read(self._last / RESULT_FILE) is not None

    @property
    def _last(self) -> Path:
        """Folder of the last stage; its result.json is written when all else there is whole."""
        return self.folder / list(self.spec.stages)[-1]

    def _train(self) -> Facts:
        if self.rate is None:
            return {"cost": {"seconds": 0.0, "trained_parameters": 0}, "precision": None}
        results: dict[str, StageResult] = {}
        kind = PeftKind(self.arm.peft) if self.arm.peft else MTAKind()
        start = None
        for stage in self.spec.stages:
            job = TrainingJob(
                stage=stage,
                spec=self.spec,
                dataset=self.bench.dataset.path,
                backbone=self.bench.backbone,
                start=start,
                output=self.folder / stage,
                checkpoints=self.folder / stage / "checkpoints",
                trunk_cache=self.bench.trunk_cache,
                metrics=self.folder / "metrics.jsonl",
                seed=self.seed,
            )
            results[stage] = run(job, self.bench.log, self.bench.stop_asked, kind)
            start = self.folder / stage / BUNDLE
        costs = {stage: result.cost for stage, result in results.items()}
        cost = {
            **{stage: asdict(cost) for stage, cost in costs.items()},
            "trained_parameters": trained_in_all(cost.trained_parts for cost in costs.values()),
            # Of the steps, in whichever process: an interrupted trial has several.
            "seconds": sum(cost.train_seconds for cost in costs.values()),
        }
        return {"cost": cost, "precision": next(iter(results.values())).precision}

    def _score(self, split: str, limit: int | None) -> Facts:
        return self._card(self._predictor(), split, limit)

    def _card(self, predictor: Predictor, split: str, limit: int | None) -> Facts:
        rows = chosen_rows(self.bench.dataset, self.bench.spec, split, limit)
        tasks, inputs = [row["task"] for row in rows], [row["input"] for row in rows]
        answers = predictor.predict(
            tasks, inputs, lambda done, total: self.bench.log(phase=f"score {split}", done=done, total=total)
        )
        return score(answers, rows, self.bench.spec, seed=self.seed).to_json()

    def _predictor(self) -> Predictor:
        if self.rate is None:
            model, tokenizer = load_backbone(self.bench.backbone)
            return Predictor.placed(model, tokenizer, self.bench.spec, None)
        if self.arm.peft:
            handle = PeftHandle(self.bench.backbone, self.spec, self.arm.peft)
            handle.load(self._last / ADAPTERS)
            return Predictor.placed(handle.model, handle.tokenizer, self.spec, handle)
        return Predictor.from_bundle(self._last / BUNDLE, self.bench.backbone)


def read_facts(path: Path) -> Facts | None:
    """What a JSON file holds; None where there is none, or half of one."""
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return dict(found)
