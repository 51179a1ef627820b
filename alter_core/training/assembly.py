"""Assemble a stage's training: rows, trunk caches and scores around a subject. The loop then only loops."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from alter_core.data.dataset import TaskDataset
from alter_core.errors import SpecError
from alter_core.evaluation.rows import chosen_rows
from alter_core.evaluation.scorecard import score
from alter_core.inference.attention import attention
from alter_core.inference.predict import Predictor
from alter_core.job import Log
from alter_core.prompts import check_answer, check_room, encode_targets, longest_answer
from alter_core.spec import DomainSpec
from alter_core.training.attention import choose_attention
from alter_core.training.encoded import EncodedRows, encode_rows, is_left
from alter_core.training.forward import TargetForward
from alter_core.training.order import TrainingJob
from alter_core.training.result import Score
from alter_core.training.session import Training
from alter_core.training.subject import Setting, Subject
from alter_core.training.trunk_cache import TrunkCache, trunk_digest

VALIDATION_LOSS_ROWS = 48
"""Validation rows of each task that the validation loss is taken on: enough to see a stage go wrong, and cheap."""


def assemble(setting: Setting, subject: Subject) -> Training:
    """All that the loop reads. Raises SpecError where rows do not fit the backbone, or processes the step."""
    job, stage, accelerator = setting.job, setting.stage, setting.accelerator
    spec, tokenizer = subject.spec, subject.tokenizer
    forward = TargetForward(subject.mta)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    progress = _progress(setting.log, "read")
    encode = partial(encode_rows, progress=progress, prompt_format=subject.prompt_format)
    rows = encode(setting.dataset, "train", spec, tokenizer, only=job.only, wanted=_wanted(job, spec))
    if not len(rows):
        raise SpecError(f"{job.stage}: stage_one > leaves: {spec.stage_one.leaves} leaves it no row to train on")
    most = spec.evaluation.max_validation_rows
    limit = most if stage.best_by_task else min(most or VALIDATION_LOSS_ROWS, VALIDATION_LOSS_ROWS)
    seen = job.refreshed or None  # a task that is added later is looked at beside the others
    validation = encode(setting.dataset, "validation", spec, tokenizer, limit, seen)
    _check_room(subject, forward, rows)
    if accelerator.num_processes > stage.rows_per_step:
        raise SpecError(
            f"{job.stage}: {accelerator.num_processes} processes share rows_per_step: {stage.rows_per_step}, so that "
            "some would have no row: raise it, or start fewer processes"
        )
    kernel = choose_attention(subject.mta.model, max(rows.longest, validation.longest), accelerator.device)
    cache = validation_cache = None
    if subject.has_trunk and spec.trunk_cache and forward.first > 0:
        digest = trunk_digest(forward)
        cache, validation_cache = (
            TrunkCache(job.trunk_cache, forward, part, pad, digest) for part in (rows, validation)
        )
    asks_scores = not stage.best_by_task and (
        bool(stage.evaluate_every or stage.patience) or (subject.opens_gates and len(validation) > 0)
    )
    return Training(
        name=job.stage,
        stage=stage,
        mta=subject.mta,
        enter=subject.enter,
        rows=rows,
        steps=stage.count_steps(len(rows) if job.only else sum(setting.dataset.counts("train").values())),
        validation=validation,
        cache=cache,
        validation_cache=validation_cache,
        accelerator=accelerator,
        precision=setting.precision,
        autocast=subject.autocast,
        pad=pad,
        seed=job.seed,
        checkpoint_folder=job.checkpoints,
        checkpoint_seconds=job.checkpoint_seconds,
        job_key=setting.key,
        score=scorer(subject, setting.dataset, accelerator, kernel, setting.log) if asks_scores else None,
        opens_gates=subject.opens_gates,
        log=setting.log,
        began=setting.began,
        stop_asked=setting.stop_asked,
    )


def _wanted(job: TrainingJob, spec: DomainSpec) -> Callable[[str], bool] | None:
    """Which training rows a stage learns from, where stage one leaves some to stage two."""
    share = spec.stage_one.leaves
    if not share or job.only:
        return None
    return lambda text: is_left(share, text) == (job.stage == "stage_two")


def _check_room(subject: Subject, forward: TargetForward, rows: EncodedRows) -> None:
    """Raises SpecError where a task's longest row is more than the backbone reads."""
    tasks = subject.spec.tasks
    prompts, whole = (rows.longest_by_task(len(tasks), answers) for answers in (False, True))
    for number, task in enumerate(tasks):
        longest = whole[number]
        if forward.is_encoder_decoder:
            longest = prompts[number]
            labels = encode_targets(subject.tokenizer, task, task.labels or (), subject.prompt_format)
            check_answer(forward.model.config, task.name, max(map(len, labels)) if labels else longest_answer(task))
        elif not task.task_type.labelled:  # in use its answer may be as long as its task allows
            longest = prompts[number] + longest_answer(task)
        check_room(forward.model.config, task.name, longest)


def scorer(
    subject: Subject, dataset: TaskDataset, accelerator: Accelerator, kernel: str, log: Log
) -> Callable[[], Score]:
    """Validation scores by generating answers, as the scorecard takes them; the main process takes them for all.

    kernel: of attention, to write answers with.
    """
    spec, model = subject.spec, subject.mta.model
    rows = chosen_rows(dataset, spec, "validation", spec.evaluation.max_validation_rows)
    if not rows:
        raise SpecError(
            f"{spec.name}: evaluate_every and patience score validation rows, and there are none: raise "
            "split > validation, or drop both"
        )

    def take() -> Score:
        taken = [Score(0.0, {})]
        if accelerator.is_main_process:
            with attention(model, kernel):
                predictor = Predictor(model, subject.tokenizer, spec, subject.mta, prompt_format=subject.prompt_format)
                tasks, inputs = [row["task"] for row in rows], [row["input"] for row in rows]
                predictions = predictor.predict(tasks, inputs, _progress(log, "score"))
            card = score(predictions, rows, spec)
            taken = [Score(card.macro.value, {name: task.score for name, task in card.tasks.items()})]
        broadcast_object_list(taken)
        return taken[0]

    return take


def _progress(log: Callable[..., None], phase: str) -> Callable[..., None]:
    last = [0.0]

    def progress(done: float, total: float, **fields: Any) -> None:
        if time.monotonic() - last[0] > 0.5 or done >= total:
            last[0] = time.monotonic()
            log(phase=phase, done=done, total=total, **fields)

    return progress
