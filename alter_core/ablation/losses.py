"""Loss by row: how far a model is from the right answers, where scores only tell whether it gave them.

Arms differ in it by far less than noise on the same rows: what cannot be told by scores is screened by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from alter_core.errors import Stopped
from alter_core.evaluation.rows import Row
from alter_core.inference.predict import Predictor
from alter_core.job import Log, StopAsked
from alter_core.mta.modes import evaluating
from alter_core.prompts import encode_prompts, encode_targets
from alter_core.training.encoded import EncodedRows, Ragged
from alter_core.training.forward import TargetForward
from alter_core.training.row_losses import losses_of
from alter_core.training.trainable import Trainable
from alter_core.training.trunk_cache import TrunkCache, trunk_digest
from alter_core.whole import Result


@dataclass(frozen=True)
class RowLosses(Result):
    """What losses-SPLIT.json holds."""

    tasks: Mapping[str, Mapping[str, float]]
    """Task -> row id -> mean over the tokens of the row's target, in nats."""


@torch.no_grad()
def row_losses(
    predictor: Predictor, rows: Sequence[Row], trunk_cache: Path, log: Log, stop_asked: StopAsked
) -> RowLosses:
    """Of a model with adapters, in the precision that it answers in. `rows` have targets.

    trunk_cache: folder of trunk caches; models with the same trunk read rows so far once. Raises Stopped when asked to
    stop while that is done, which is kept.
    """

    def tell(done: int, total: int, **facts: Any) -> None:
        log(phase="cache", done=done, total=total, **facts)

    def end_if_asked() -> None:
        if stop_asked():
            raise Stopped("asked to stop while the trunk cache of rows that losses are taken on was built; it goes on")

    forward = TargetForward(cast(Trainable, predictor.mta))
    tasks, tokenizer = list(forward.mta.tasks), predictor.tokenizer
    prompts: list[Any] = [None] * len(rows)
    targets: list[Any] = [None] * len(rows)
    for name in tasks:
        task, places = predictor.spec.task(name), [place for place, row in enumerate(rows) if row["task"] == name]
        texts = [rows[place]["input"] for place in places], [rows[place]["target"] for place in places]
        read = encode_prompts(tokenizer, task, texts[0], None, predictor.prompt_format)[0]
        for place, prompt, target in zip(
            places, read, encode_targets(tokenizer, task, texts[1], predictor.prompt_format), strict=True
        ):
            prompts[place], targets[place] = prompt, target
    numbers = np.array([tasks.index(row["task"]) for row in rows], dtype=np.int64)
    encoded = EncodedRows(numbers, Ragged.of(prompts), Ragged.of(targets))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    cache = None
    if forward.first:
        with evaluating(predictor.model):
            cache = TrunkCache(trunk_cache, forward, encoded, pad, trunk_digest(forward))
            cache.fill(np.arange(len(rows)), tell, end_if_asked)
    found = losses_of(forward, encoded, pad, cache)
    by_task: dict[str, dict[str, float]] = {}
    for row, loss in zip(rows, found.tolist(), strict=True):
        by_task.setdefault(row["task"], {})[str(row["id"])] = loss
    return RowLosses(by_task)
