"""Subject: a model that is ready to train. How it is made for a job and kept afterwards is its kind's affair."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn

from alter_core.backbone import backbone_record, load_backbone
from alter_core.data.dataset import TaskDataset
from alter_core.errors import SpecError
from alter_core.inference.recorded_spec import recorded_format
from alter_core.job import Log, StopAsked
from alter_core.mta import MTAModel, inject, load_bundle, save_bundle
from alter_core.mta.fingerprint import tensor_digest
from alter_core.mta.manifest import MANIFEST
from alter_core.mta.model import NEW_ROW_KEEP
from alter_core.numerics import Precision, dtype_of
from alter_core.prompts import PROMPT_FORMAT
from alter_core.spec import DomainSpec, StageSpec
from alter_core.training.order import TrainingJob
from alter_core.training.refresh import check_apart
from alter_core.training.stages import Named, enter_stage, opens_gates
from alter_core.training.trainable import Trainable

BUNDLE = "bundle"
"""In a job's output: the folder of the trained model."""


@dataclass(frozen=True)
class Setting:
    """What a job is done with, before there is a model."""

    job: TrainingJob
    stage: StageSpec
    dataset: TaskDataset
    key: str
    """Of all that the trained weights depend on, beside the code."""
    accelerator: Accelerator
    precision: Precision
    log: Log
    stop_asked: StopAsked
    began: float
    """time.monotonic() at the start of this process's work."""


@dataclass(frozen=True)
class Subject:
    """A model on its device, in the precision that it trains in, and how its stage begins and ends."""

    mta: Trainable
    tokenizer: Any
    spec: DomainSpec
    """The job's, its tasks in the order of the model's ids."""
    prompt_format: int
    """That the model is taught by."""
    enter: Callable[[], tuple[Named, bool]]
    """As `Training` has it."""
    opens_gates: bool
    """As `Training` has it."""
    autocast: bool
    """As `Training` has it."""
    has_trunk: bool
    """What lies beneath the first adapters does not train."""
    save: Callable[[], str | None]
    """Puts the trained model into the job's output; gives its bundle's digest, where it is one."""
    untouched: Callable[[], str | None] = lambda: None
    """Digest of the weights that training must leave as they are, where there are such."""


class Kind(Protocol):
    """A kind of model that jobs train."""

    @property
    def key(self) -> tuple[object, ...]:
        """What the trained weights depend on beside the job; JSON-able."""
        ...

    def is_kept(self, output: Path) -> bool:
        """Whether a trained model is there."""
        ...

    def load(self, setting: Setting) -> Subject:
        """The model to train. The seed is set. Raises AlterError subclasses for a job that does not fit."""
        ...


class MTAKind:
    """MTA models: fresh ones in a backbone, or those of a bundle; to train a stage of, or to add a task to."""

    key = ()

    def is_kept(self, output: Path) -> bool:
        return (output / BUNDLE / MANIFEST).exists()

    def load(self, setting: Setting) -> Subject:
        job, stage, precision = setting.job, setting.stage, setting.precision
        mta, tokenizer, added, prompt_format = _load(job, stage)
        spec = job.spec.model_copy(update={"tasks": tuple(job.spec.task(name) for name in mta.tasks)})
        trains_backbone = "backbone" in stage.parts and job.task is None
        own = _to_compute_dtype(mta, torch.float32 if trains_backbone else dtype_of(precision))
        mta.model.to(setting.accelerator.device)

        def save() -> str:
            _restore_dtypes(own)
            bundle = job.output / BUNDLE
            shutil.rmtree(bundle, ignore_errors=True)  # of a job that was killed just before its result
            metadata = {
                **{"spec": spec.model_dump(mode="json"), "dataset": setting.dataset.digest},
                **{"stage": job.stage, "key": setting.key, "prompt_format": prompt_format},
            }
            source = str(backbone_record(job.backbone)["source"])
            # What is registered must load anywhere; what only the next stage reads can do with the workspace's own.
            last = job.spec.stages_end_with(job.stage)
            return save_bundle(mta, tokenizer, bundle, metadata, backbone="hold" if last else "refer", source=source)

        return Subject(
            mta=mta,
            tokenizer=tokenizer,
            spec=spec,
            prompt_format=prompt_format,
            enter=(lambda: (added, True)) if job.task else (lambda: enter_stage(mta, stage, job.seed)),
            # Other gates begin with the weights that are in force.
            opens_gates=job.start is not None and job.only is None and stage.gate == "soft" and opens_gates(mta, stage),
            autocast=trains_backbone and precision == "bf16",
            has_trunk=not trains_backbone,
            save=save,
            untouched=lambda: digest_of_others(mta, added, job.refreshed) if job.only else None,
        )


def trained_digest(trained: Sequence[tuple[str, torch.Tensor]]) -> str:
    """sha256 of the trained weights, names included."""
    lines = [f"{name} {tensor_digest(p)}\n" for name, p in sorted(trained, key=lambda item: item[0])]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _load(job: TrainingJob, stage: StageSpec) -> tuple[MTAModel, Any, Named, int]:
    """The model to train, its tokenizer, what alone may train where the job adds a task, and the prompt format: a model
    that has learnt already keeps its own."""
    names = job.spec.task_names
    if job.start is None:
        model, tokenizer = load_backbone(job.backbone)
        return inject(model, job.spec.mta, names, dtype=torch.float32), tokenizer, [], PROMPT_FORMAT
    mta, tokenizer, metadata = load_bundle(job.start, backbone=job.backbone)
    wanted = set(names) - {job.task}
    if wanted != set(mta.tasks):
        raise SpecError(
            f"{job.start} holds the tasks {', '.join(mta.tasks)}, and the job needs {', '.join(sorted(wanted))}",
            ["set warm_start: backbone, or add one task at a time with `alter add-task`"],
        )
    added = _add_task(mta, job.task, job.spec, stage) if job.task else []
    check_apart(mta, job.refreshed)
    return mta, tokenizer, added, recorded_format(metadata, job.start)


def _add_task(mta: MTAModel, task: str, spec: DomainSpec, stage: StageSpec) -> Named:
    """The new task's parameters. Raises SpecError where the model as trained makes no use of them."""
    if not mta.layers:
        raise SpecError(f"{task} cannot be added: mta > layers: none leaves no place for an adapter; train all tasks")
    home = spec.mta.homes.get(task, task)
    if home != task and any(layer.gate.mode == "hard" for layer in mta.layers):
        raise SpecError(
            f"mta > homes: on the adapter of {home}, {task} has nothing of its own to learn while gates are hard: drop "
            "it there, or train all tasks with a stage of gate: soft"
        )
    if not all(layer.gate.task_active for layer in mta.layers):
        raise SpecError(
            f"{task} cannot be added: the last stage has active: shared, so that no task adapter is in use; train all "
            "tasks with a stage of active: all"
        )
    keep = next((each.keep for each in spec.stages.values() if each.gate == "soft"), NEW_ROW_KEEP)
    return mta.add_task(task, home if home != task else None, stage.start, keep)  # as those before it were taught


def digest_of_others(mta: MTAModel, added: Named, refreshed: Sequence[str]) -> str:
    """Digest of all weights that adding a task, or refreshing some, must not change."""
    names = {name for name, _ in added}
    own: dict[str, list[int]] = {}
    for task in refreshed:
        for name, places in mta.own_places(mta.tasks.index(task)).items():
            own.setdefault(name, []).extend(places)
    kept = []
    for name, parameter in mta.model.named_parameters():
        if name not in names:
            others = [place for place in range(len(parameter)) if place not in own[name]] if name in own else None
            kept.append((name, parameter if others is None else parameter[others]))
    return trained_digest(kept)


def _to_compute_dtype(mta: MTAModel, dtype: torch.dtype) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Bring the backbone to `dtype` and adapters to fp32; returns backbone tensors beside their former values.

    The former values go back before saving, so that computing in bf16 never rounds a frozen fp32 backbone. A backbone
    that trains does so in fp32, and is saved in the precision that it came in.
    """
    held = []
    for part, named in mta.parameters_by_part().items():
        for _, parameter in named:
            wanted = dtype if part == "backbone" else torch.float32
            if parameter.dtype != wanted:
                if part == "backbone":
                    held.append((parameter, parameter.data))
                parameter.data = parameter.data.to(wanted)
    return held


def _restore_dtypes(held: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
    for parameter, before in held:
        parameter.data = parameter.data.to(before.dtype) if parameter.requires_grad else before
