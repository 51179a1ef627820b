"""A training job from its files to its bundle: load, train, save, and account for it."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import nn

from alter_core.backbone import backbone_record, load_backbone
from alter_core.errors import BundleError, SpecError, TrainingError
from alter_core.inference.recorded_spec import recorded_format
from alter_core.mta import MTAModel, bundle_digest, inject, load_bundle, save_bundle
from alter_core.mta.fingerprint import tensor_digest
from alter_core.mta.manifest import MANIFEST
from alter_core.mta.model import NEW_ROW_KEEP
from alter_core.numerics import choose_precision, dtype_of
from alter_core.prompts import PROMPT_FORMAT, check_answer, check_room, encode_targets, longest_answer
from alter_core.spec import DomainSpec, StageSpec
from alter_core.training import checkpoint as checkpoints
from alter_core.training.attention import attention, choose_attention
from alter_core.training.batches import EncodedRows, encode_rows
from alter_core.training.cost import stage_cost
from alter_core.training.forward import TargetForward
from alter_core.training.loop import train
from alter_core.training.order import TrainingJob
from alter_core.training.result import RESULT_FILE, Score, StageResult, Validation
from alter_core.training.session import Training
from alter_core.training.stages import Named, enter_stage, opens_gates, stage_for_added
from alter_core.training.trunk_cache import TrunkCache, trunk_digest
from alter_core.whole import digest_of

VALIDATION_LOSS_ROWS = 48
"""Validation rows of each task that the validation loss is taken on: enough to see a stage go wrong, and cheap."""


def run(job: TrainingJob, log: Callable[..., None], stop_asked: Callable[[], bool]) -> StageResult:
    """Do `job`; returns what result.json holds. Raises AlterError subclasses for wrong input, and Stopped."""
    from alter_core.data.dataset import TaskDataset

    begin = time.monotonic()
    accelerator = _accelerator()
    spec = job.spec
    dataset = TaskDataset.open(job.dataset)
    stage = stage_of(job, sum(dataset.counts("train").values()))
    key = job_key(job, stage, dataset.digest)
    done_before = StageResult.read(job.output / RESULT_FILE, job_key=key)
    if done_before and (job.output / "bundle" / MANIFEST).exists():
        return done_before

    chosen = [choose_precision(spec.precision, accelerator.device)]
    broadcast_object_list(chosen)  # what each process measures for itself may fall out differently
    precision, gain = chosen[0]
    precision = checkpoints.precision_begun(job.checkpoints, key) or precision
    log(phase="start", text=f"{job.stage} on {accelerator.device}, {precision}", bf16_gain=gain)
    torch.manual_seed(job.seed)  # before adapters are made
    mta, tokenizer, added, prompt_format = _load(job, stage)
    spec = spec.model_copy(update={"tasks": tuple(spec.task(name) for name in mta.tasks)})  # task ids are the model's
    trains_backbone = "backbone" in stage.parts and job.task is None
    own = _to_compute_dtype(mta, torch.float32 if trains_backbone else dtype_of(precision))
    mta.model.to(accelerator.device)

    forward = TargetForward(mta)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tell = _teller(log, "read")
    rows = encode_rows(dataset, "train", spec, tokenizer, only=job.task, progress=tell, prompt_format=prompt_format)
    limit = min(spec.evaluation.max_validation_rows or VALIDATION_LOSS_ROWS, VALIDATION_LOSS_ROWS)
    validation = encode_rows(dataset, "validation", spec, tokenizer, limit, progress=tell, prompt_format=prompt_format)
    prompts, whole = (rows.longest_by_task(len(mta.tasks), answers) for answers in (False, True))
    for number, task in enumerate(spec.tasks):
        longest = whole[number]
        if forward.is_encoder_decoder:
            longest = prompts[number]
            labels = encode_targets(tokenizer, task, task.labels or (), prompt_format)
            check_answer(mta.model.config, task.name, max(map(len, labels)) if labels else longest_answer(task))
        elif not task.task_type.labelled:  # in use its answer may be as long as its task allows
            longest = prompts[number] + longest_answer(task)
        check_room(mta.model.config, task.name, longest)
    if accelerator.num_processes > stage.rows_per_step:
        raise SpecError(
            f"{job.stage}: {accelerator.num_processes} processes share rows_per_step: {stage.rows_per_step}, so that "
            "some would have no row: raise it, or start fewer processes"
        )
    kernel = choose_attention(mta.model, max(rows.longest, validation.longest), accelerator.device)
    caches = _caches(job, forward, (rows, validation), pad) if not trains_backbone and spec.trunk_cache else None

    asks_scores = bool(stage.evaluate_every or stage.patience)
    opening = job.start is not None and job.task is None and opens_gates(mta, stage)

    training = Training(
        name=job.stage,
        stage=stage,
        mta=mta,
        enter=(lambda: (added, True)) if job.task else (lambda: enter_stage(mta, stage, job.seed)),
        rows=rows,
        validation=validation,
        cache=caches[0] if caches else None,
        validation_cache=caches[1] if caches else None,
        accelerator=accelerator,
        precision=precision,
        autocast=trains_backbone and precision == "bf16",
        pad=pad,
        seed=job.seed,
        checkpoint_folder=job.checkpoints,
        checkpoint_seconds=job.checkpoint_seconds,
        job_key=key,
        score=_scorer(mta, tokenizer, spec, dataset, accelerator, kernel, log, prompt_format)
        if asks_scores or (opening and len(validation))
        else None,
        opens_gates=opening,
        log=log,
        began=begin,
        stop_asked=stop_asked,
    )
    untouched = _digest_of_others(mta, added) if job.task else None
    done, trained = train(training)
    result = StageResult(
        job_key=key,
        stage=job.stage,
        precision=precision,
        bf16_gain=gain,
        device=str(accelerator.device),
        processes=accelerator.num_processes,
        validation=Validation(done.losses, done.opening, tuple(done.scores), done.best_step),
        stopped_early=done.stopped_early,
        gates=done.gate_tables,
        trained_digest=trained_digest(trained),
        untouched_digest=untouched,
        cost=stage_cost(done, mta, stage, forward, training.cache),
    )
    if job.task and untouched != _digest_of_others(mta, added):
        raise TrainingError(
            f"adding {job.task} changed weights of other tasks, so the bundle is not written: this is a "
            "defect of the factory, please report it"
        )
    if accelerator.is_main_process:
        _restore_dtypes(own)
        bundle = job.output / "bundle"
        shutil.rmtree(bundle, ignore_errors=True)  # of a job that was killed just before its result
        metadata = {
            **{"spec": spec.model_dump(mode="json"), "dataset": dataset.digest, "stage": job.stage, "key": key},
            "prompt_format": prompt_format,
        }
        source = str(backbone_record(job.backbone)["source"])
        # What is registered must load anywhere; what only the next stage reads can do with the workspace's backbone.
        last = job.spec.stages_end_with(job.stage)
        digest = save_bundle(mta, tokenizer, bundle, metadata, backbone="hold" if last else "refer", source=source)
        result = replace(result, bundle_digest=digest)
        result.write(job.output / RESULT_FILE)
        checkpoints.drop_checkpoints(job.checkpoints)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    log(phase="end", text=f"{job.stage} is done")
    return result


def _accelerator() -> Accelerator:
    """Of as many processes as were started; on a CPU they share its cores."""
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(
        cpu=together and not torch.cuda.is_available(),  # unsaid, each process would work for itself
        # The main process fills the trunk cache and takes validation scores while the others wait, which may be hours.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
    )
    if together and accelerator.device.type == "cpu":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // accelerator.num_processes))
    return accelerator


def stage_of(job: TrainingJob, rows: int) -> StageSpec:
    """The stage that a job trains; rows: training rows of all tasks. Raises SpecError when there is no such stage."""
    spec = job.spec
    stage = spec.stage_one if job.stage == "stage_one" else spec.stage_two
    if job.stage == "add_task":
        if job.task not in spec.task_names:
            raise SpecError(f"task: {job.task!r} is no task of the spec; its tasks are {', '.join(spec.task_names)}")
        stage = stage_for_added(spec, rows)
    elif job.task is not None:
        raise SpecError(f"task: only a job of stage add_task adds one, this is {job.stage}")
    if stage is None:
        raise SpecError(f"the job trains {job.stage}, and the spec of {spec.name} has no such stage: add one")
    if job.stage != "stage_one" and job.start is None:
        raise SpecError(f"{job.stage} starts from a bundle: give `start`")
    return stage


def job_key(job: TrainingJob, stage: StageSpec, dataset_digest: str) -> str:
    """Of all that the trained weights depend on, beside the code; a checkpoint or result of another key is not used."""
    spec = job.spec.model_dump(mode="json", include={"mta", "precision", "trunk_cache"})
    tasks = [task.content for task in job.spec.tasks], job.spec.evaluation.max_validation_rows
    if job.start and not (job.start / MANIFEST).is_file():
        raise BundleError(f"{job.start} is no bundle: it has no {MANIFEST}; give the folder that a stage wrote")
    start = bundle_digest(job.start) if job.start else None
    backbone = backbone_record(job.backbone)["digest"]
    own = stage.model_dump(mode="json")
    last = job.spec.stages_end_with(job.stage)
    return digest_of(job.stage, job.task, own, spec, tasks, last, dataset_digest, backbone, start, job.seed)


def trained_digest(trained: Named) -> str:
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


def _digest_of_others(mta: MTAModel, added: Named) -> str:
    """Digest of all weights that adding a task must not change."""
    names = {name for name, _ in added}
    return trained_digest([(name, p) for name, p in mta.model.named_parameters() if name not in names])


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


def _caches(
    job: TrainingJob, forward: TargetForward, rows: tuple[EncodedRows, ...], pad: int
) -> list[TrunkCache] | None:
    if forward.first == 0:
        return None  # no trunk below the first MTA layer
    digest = trunk_digest(forward)
    return [TrunkCache(job.trunk_cache, forward, part, pad, digest) for part in rows]


def _scorer(
    mta: MTAModel,
    tokenizer: Any,
    spec: DomainSpec,
    dataset: Any,
    accelerator: Accelerator,
    kernel: str,
    log: Callable[..., None],
    prompt_format: int,
) -> Callable[[], Score]:
    """Validation scores by generating answers, as the scorecard takes them; the main process takes them for all.

    kernel: of attention, to write answers with.
    """
    from alter_core.evaluation.job import chosen_rows
    from alter_core.evaluation.scorecard import score
    from alter_core.inference.predict import Predictor

    rows = chosen_rows(dataset, spec, "validation", spec.evaluation.max_validation_rows)
    if not rows:
        raise SpecError(
            f"{spec.name}: evaluate_every and patience score validation rows, and there are none: raise "
            "split > validation, or drop both"
        )

    def take() -> Score:
        taken = [Score(0.0, {})]
        if accelerator.is_main_process:
            with attention(mta.model, kernel):
                predictor = Predictor(mta.model, tokenizer, spec, mta, prompt_format=prompt_format)
                tasks, inputs = [row["task"] for row in rows], [row["input"] for row in rows]
                predictions = predictor.predict(tasks, inputs, _teller(log, "score"))
            card = score(predictions, rows, spec)
            taken = [Score(card.macro.value, {name: task.score for name, task in card.tasks.items()})]
        broadcast_object_list(taken)
        return taken[0]

    return take


def _teller(log: Callable[..., None], phase: str) -> Callable[..., None]:
    last = [0.0]

    def tell(done: float, total: float, **fields: Any) -> None:
        if time.monotonic() - last[0] > 0.5 or done >= total:
            last[0] = time.monotonic()
            log(phase=phase, done=done, total=total, **fields)

    return tell
