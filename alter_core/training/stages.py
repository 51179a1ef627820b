"""What a stage does to a model before its first step, and the rates it trains at. A stage is data (StageSpec)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW

from alter_core.errors import SpecError
from alter_core.mta import MTAModel
from alter_core.spec import DomainSpec, StageSpec
from alter_core.spec.stage import GateMode

REFRESH_RATE = 0.3
"""Of the rate that the adapters were first taught at: they have most of what they need."""
Named = list[tuple[str, nn.Parameter]]


def enter_stage(mta: MTAModel, stage: StageSpec, seed: int) -> tuple[Named, bool]:
    """Bring `mta` into the state that `stage` starts from.

    Returns the parameters that train, and whether other adapters, weights of a gate or starts now make the model
    another than before. Gates that an earlier stage opened and trained stay as they are.
    Raises SpecError when nothing would train, MTAError when adapters cannot take the stage's start.
    """
    torch.manual_seed(seed)  # adapters that start anew draw random numbers
    before = mta.gate_table(), _in_use(mta)
    mta.use_adapters(task=stage.active != "shared", shared=stage.active != "task")
    if stage.start:
        mta.start_adapters(stage.start)
    if stage.gate == "hard":
        mta.set_gate_mode("hard")
    elif opens_gates(mta, stage):
        if stage.gate == "soft":
            mta.open_gates(stage.keep)
        else:
            mta.free_gates(stage.gate)
    trained = mta.set_trainable(stage.parts)
    if not trained:
        raise SpecError(
            f"nothing would train: trains names {', '.join(stage.trains)}, which hold no parameters here",
            ["task_adapters and gates need MTA layers; shared_adapters need mta.shared_adapters of 1 or more"],
        )
    return trained, stage.start is not None or (mta.gate_table(), _in_use(mta)) != before


def opens_gates(mta: MTAModel, stage: StageSpec) -> bool:
    """Whether `stage` finds gates of another mode than its own, which is not hard."""
    return stage.gate != "hard" and any(layer.gate.mode != stage.gate for layer in mta.layers)


def _in_use(mta: MTAModel) -> list[tuple[bool, bool]]:
    """Which adapters take part, layer by layer; of one that lies beneath, the gates tell nothing."""
    return [(layer.gate.task_active, layer.gate.shared_active) for layer in mta.layers]


def make_optimizer(trained: Named, stage: StageSpec) -> AdamW:
    """AdamW with the gates' logits in a group of their own: they have another scale, and are never decayed."""
    gates = [p for name, p in trained if ".gate.logits" in name]
    others = [p for name, p in trained if ".gate.logits" not in name]
    gate_rate = stage.gate_learning_rate or stage.learning_rate
    groups = [
        {"params": others, "lr": stage.learning_rate, "peak": stage.learning_rate, "weight_decay": stage.weight_decay},
        {"params": gates, "lr": gate_rate, "peak": gate_rate, "weight_decay": 0.0},
    ]
    return AdamW([g for g in groups if g["params"]], fused=True)


def rate_at(stage: StageSpec, step: int, steps: int) -> float:
    """Share of the peak rate at `step` (from 0) of `steps`: warm-up, then the schedule, at its end after the last."""
    warm = round(stage.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if stage.schedule == "constant":
        return 1.0
    share = (step - warm) / max(steps - warm, 1)
    left = 1 - share if stage.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))
    return stage.schedule_end + (1 - stage.schedule_end) * left


def set_rates(optimizer: AdamW, share: float) -> None:
    """Set every group's rate to `share` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def stage_for_added(spec: DomainSpec, rows: int) -> StageSpec:
    """What teaches a task that comes later: the stage that teaches task adapters, for as many passes over its rows.

    rows: training rows of all tasks, which a length in steps counts.
    """
    stage = next((s for s in spec.stages.values() if "task_adapters" in s.parts), spec.stage_one)
    if stage.steps is None:
        return stage
    return stage.model_copy(update={"steps": None, "epochs": stage.steps * stage.rows_per_step / max(rows, 1)})


def stage_for_refresh(spec: DomainSpec, rows: int, gate: GateMode) -> StageSpec:
    """What teaches tasks anew whose rows have changed: one gentle pass over all that they have now, of which each task
    keeps its best.

    gate: the mode of the model's gates, which stays.
    """
    changes: dict[str, object] = {
        "trains": ("task_adapters", "gates") if gate == "strength" else ("task_adapters",),
        **{"gate": gate, "epochs": 1.0, "steps": None, "best_by_task": True, "evaluate_every": None, "patience": None},
        **{"start": None, "drop_adapters": 0.0, "leaves": 0.0, "average": 0.0, "weight_decay": 0.0, "hold": 0.0},
    }
    stage = stage_for_added(spec, rows)
    return stage.model_copy(update={**changes, "learning_rate": stage.learning_rate * REFRESH_RATE})


def scores_due(stage: StageSpec, steps: int) -> Sequence[int]:
    """Steps after which validation rows are looked at: for early stopping, or the best by task, without
    `evaluate_every`, at most ten."""
    every = stage.evaluate_every or (math.ceil(steps / 10) if stage.patience or stage.best_by_task else None)
    return [] if every is None else [*range(every, steps, every), steps]


def dropped_at(stage: StageSpec, step: int, steps: int, tasks: int, seed: int) -> list[int]:
    """Ids of the tasks that do without their home adapter in `step` (from 0) of `steps`; the same in every process."""
    probability = stage.drop_adapters * (1 - step / steps)
    draws = np.random.default_rng((seed, step)).random(tasks) if probability else np.ones(tasks)
    return np.flatnonzero(draws < probability).tolist()
