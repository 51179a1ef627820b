"""StageSpec: one stage of training, as data."""

import math
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from alter_core.spec.section import Section, Share, SpecProblem, spec_error

GateMode = Literal["hard", "soft", "signed", "strength"]
FREE = ("signed", "strength")
"""Gates whose weights need not sum to 1: they turn an adapter down or up."""
Start = Literal["pretrained", "shared", "zero"]
Part = Literal["backbone", "adapters", "shared_adapters", "task_adapters", "gates"]


def _unless_steps(epochs: float) -> Callable[[dict[str, Any]], float | None]:
    """The default of `epochs`: none beside `steps`, which pydantic has read by then."""
    return lambda read: None if read.get("steps") else epochs


class StageSpec(Section):
    """One stage of training. A stage is data, run by one loop. Its defaults are stage one's."""

    trains: tuple[Part, ...] = ("shared_adapters", "task_adapters")
    """What trains: backbone, shared_adapters, task_adapters (adapters: those in use), gates. The rest is frozen."""
    active: Literal["all", "shared", "task"] = "all"
    """Which adapters exist in this stage; the others contribute nothing."""
    start: Start | None = None
    """What the task adapters are set to when the stage begins: the pretrained FFN, the shared adapter as trained so
    far, or a zero delta. Unset leaves them as they are."""
    gate: GateMode = "hard"
    """hard: a row reaches its home and the shared adapters only. soft: the gate's softmax over all. signed: a weight of
    any sign for every adapter, 1 at home at first, so that an adapter can be turned down or up. strength: the same for
    a row's home adapter alone."""
    keep: float = Field(default=0.97, gt=0, lt=1)
    """When a soft gate opens, the weight that stays where the hard gate had it; the rest is spread evenly."""
    hold: float = Field(default=0.0, ge=0)
    """Holds signed gates and strengths near where the stage began: half of this times the square of the distance is
    added to the loss."""
    drop_adapters: Share = 0.0
    """Probability, by step and task, that a task's rows do without its home adapter, so that what is shared learns all
    that it can. It falls evenly to zero at the stage's end."""
    leaves: Share = 0.0
    """Share of each task's training rows, by hash, that stage one leaves to stage two, which then trains on them
    alone. Both count their epochs in all training rows."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. Give epochs or steps."""
    epochs: float | None = Field(default_factory=_unless_steps(3.4), gt=0)
    """Passes over the training rows, where no steps are given. Give epochs or steps."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak rate of AdamW."""
    gate_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of the gates' logits; unset means as learning_rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the rate after warm-up."""
    schedule_end: float = Field(default=0.0, ge=0, lt=1)
    """Share of the peak rate that a cosine or linear schedule ends at: where the next stage goes on."""
    warmup: Share = 0.05
    """Share of the steps over which the rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    rows_per_step: int = Field(default=32, ge=1)
    """Rows of one optimizer step, over all processes and accumulation steps."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a step's rows are run in, to save memory."""
    sampling_temperature: float = Field(default=1.0, ge=1)
    """T in p(task) proportional to rows^(1/T): 1 as the data are, large for equal shares."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between validation scores by generated answers, which take time; unset: none, or ten of them when
    `patience` asks. The best of them is kept. The validation loss is always taken at the start and the end, and the
    score right before and after a stage opens the gates of the one before it, which is then one to beat."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validation scores without a better one, and keep the best; unset: never."""
    average: Share = 0.0
    """Share of the steps, the last ones, over which the weights that the stage ends with are averaged."""
    best_by_task: bool = False
    """For each task, end with the best that its own validation loss saw: where the stage began, unless its adapters
    off, or as they were at one of ten looks (or every `evaluate_every` steps), were better by a standard error."""

    @model_validator(mode="after")
    def _is_a_stage(self) -> "StageSpec":
        wrong: list[SpecProblem] = []
        if (self.epochs is None) == (self.steps is None):
            wrong.append(((), "give exactly one of epochs, steps"))
        if not self.trains:
            wrong.append((("trains",), "name at least one part"))
        if "gates" in self.trains and self.gate == "hard":
            wrong.append((("trains",), "gates train where they are not hard; set gate: soft, or drop gates"))
        if self.drop_adapters and self.gate != "hard":
            wrong.append((("drop_adapters",), "adapters are dropped where gates are hard only; set gate: hard"))
        if self.hold and self.gate not in FREE:
            wrong.append((("hold",), f"holds gates that are {' or '.join(FREE)}; this one is {self.gate}"))
        if self.average and (self.patience or self.evaluate_every or self.best_by_task):
            wrong.append((("average",), "the mean is what the stage ends with: drop what asks for its best"))
        if self.best_by_task:
            if self.patience:
                wrong.append((("best_by_task",), "has looks of its own: drop patience"))
            if self.parts & {"backbone", "shared_adapters"}:
                wrong.append((("best_by_task",), "chooses what is a task's own: train task_adapters and gates alone"))
            if self.gate == "soft" or ("task_adapters" in self.parts and self.gate == "signed"):
                problem = "a task would reach adapters that other tasks chose: set gate: strength or hard"
                wrong.append((("best_by_task",), f"{problem}, or signed and train gates alone"))
        for part, other in (("task_adapters", "shared"), ("shared_adapters", "task")):
            if part in self.trains and self.active == other:
                problem = f"{part} take no part in a stage with active: {other}; drop one of the two"
                wrong.append((("trains",), problem))
        if wrong:
            raise spec_error(wrong)
        return self

    def count_steps(self, rows: int) -> int:
        """Optimizer steps over `rows` training rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * rows / self.rows_per_step))

    @property
    def parts(self) -> frozenset[str]:
        """`trains`, with adapters spelt out as those that are in use: weight decay would shrink the others."""
        in_use = {"shared": ("shared_adapters",), "task": ("task_adapters",)}
        spelt = {"adapters": in_use.get(self.active, ("shared_adapters", "task_adapters"))}
        return frozenset(part for given in self.trains for part in spelt.get(given, (given,)))


def _keeps_tasks_apart(read: dict[str, Any]) -> bool:
    """The default of stage two's `best_by_task`: wherever it can be had, and nothing else was asked of the end."""
    own = not {"backbone", "adapters", "shared_adapters"} & set(read.get("trains", ()))
    return read.get("gate") == "strength" and own and not (read.get("patience") or read.get("average"))


class StageTwoSpec(StageSpec):
    """Stage two: the gates open and train, in few steps. By default each task's own alone, so that tasks stay apart."""

    trains: tuple[Part, ...] = ("gates",)
    """As in stage one."""
    gate: GateMode = "strength"
    """As in stage one."""
    epochs: float | None = Field(default_factory=_unless_steps(0.16), gt=0)
    """As in stage one."""
    learning_rate: float = Field(default=6e-5, gt=0)
    """As in stage one."""
    gate_learning_rate: float | None = Field(default=5e-2, gt=0)
    """As in stage one."""
    warmup: Share = 0.1
    """As in stage one."""
    best_by_task: bool = Field(default_factory=_keeps_tasks_apart)
    """As in stage one. Unset: wherever gates are strengths and no other part of the end is asked for."""
