"""A training job from its files to its bundle: what it asks for is assembled, trained, saved and accounted for."""

import os
import time
from dataclasses import replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from alter_core.backbone import backbone_record
from alter_core.data.dataset import TaskDataset
from alter_core.errors import BundleError, SpecError, TrainingError
from alter_core.job import Log, StopAsked
from alter_core.mta import bundle_digest
from alter_core.mta.manifest import MANIFEST, read_manifest
from alter_core.mta.replicas import use_threads
from alter_core.numerics import choose_precision
from alter_core.spec import StageSpec
from alter_core.training import checkpoint as checkpoints
from alter_core.training.apart import gate_mode_apart
from alter_core.training.assembly import assemble
from alter_core.training.cost import stage_cost
from alter_core.training.forward import TargetForward
from alter_core.training.loop import train
from alter_core.training.order import TrainingJob
from alter_core.training.result import RESULT_FILE, StageResult, Validation
from alter_core.training.stages import stage_for_added, stage_for_refresh
from alter_core.training.subject import Kind, MTAKind, Setting, trained_digest
from alter_core.whole import digest_of


def run(job: TrainingJob, log: Log, stop_asked: StopAsked, kind: Kind | None = None) -> StageResult:
    """Do `job`; returns what result.json holds. kind: of model; unset, MTA models.

    Raises AlterError subclasses for wrong input, and Stopped when asked to stop.
    """
    began, kind = time.monotonic(), kind or MTAKind()
    accelerator = make_accelerator()
    dataset = TaskDataset.open(job.dataset)
    stage = stage_of(job, sum(dataset.counts("train").values()))
    key = job_key(job, stage, dataset.digest, kind.key)
    done_before = StageResult.read(job.output / RESULT_FILE, job_key=key)
    found = [done_before if done_before and kind.is_kept(job.output) else None]
    broadcast_object_list(found)  # another machine may see a file later than the one that wrote it
    if found[0]:
        return found[0]

    precision, gain = choose_precision(job.spec.precision, accelerator.device)
    chosen = [(checkpoints.precision_begun(job.checkpoints, key) or precision, gain)]
    broadcast_object_list(chosen)  # what each process measures for itself may fall out differently
    precision, gain = chosen[0]
    log(phase="start", text=f"{job.stage} on {accelerator.device}, {precision}", bf16_gain=gain)
    torch.manual_seed(job.seed)  # before adapters are made
    setting = Setting(job, stage, dataset, key, accelerator, precision, log, stop_asked, began)
    subject = kind.load(setting)
    training = assemble(setting, subject)
    untouched = subject.untouched()
    done, trained = train(training)
    result = StageResult(
        job_key=key,
        stage=job.stage,
        precision=precision,
        bf16_gain=gain,
        device=str(accelerator.device),
        processes=accelerator.num_processes,
        validation=Validation(done.losses, done.opening, tuple(done.scores), done.best_step, done.by_task),
        stopped_early=done.stopped_early,
        gates=done.gate_tables,
        trained_digest=trained_digest(trained),
        untouched_digest=untouched,
        cost=stage_cost(done, subject.mta, stage, TargetForward(subject.mta), training.cache),
    )
    if untouched != subject.untouched():
        raise TrainingError(
            f"{job.stage} of {', '.join(job.only or ())} changed weights of other tasks, so the bundle is not written: "
            "this is a defect of the factory, please report it"
        )
    if accelerator.is_main_process:
        result = replace(result, bundle_digest=subject.save())
        result.write(job.output / RESULT_FILE)
        checkpoints.drop_checkpoints(job.checkpoints)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    log(phase="end", text=f"{job.stage} is done")
    return result


def make_accelerator() -> Accelerator:
    """Of as many processes as were started; those of a machine share its cores where they compute on them."""
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(
        cpu=together and not torch.cuda.is_available(),  # unsaid, each process would work for itself
        # The main process fills the trunk cache and takes validation scores while the others wait, which may be hours.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
    )
    if together and accelerator.device.type == "cpu":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        use_threads(max(1, len(os.sched_getaffinity(0)) // here))
    return accelerator


def stage_of(job: TrainingJob, rows: int) -> StageSpec:
    """The stage that a job trains; rows: training rows of all tasks. Raises SpecError when there is no such stage."""
    spec = job.spec
    stage = spec.stage_one if job.stage == "stage_one" else spec.stage_two
    if job.stage == "add_task":
        if job.task not in spec.task_names:
            raise SpecError(f"task: {job.task!r} is no task of the spec; its tasks are {', '.join(spec.task_names)}")
        stage = stage_for_added(spec, rows)
    elif job.stage == "refresh":
        if not set(job.refreshed) <= set(spec.task_names) or not job.refreshed:
            raise SpecError(f"refreshed: name tasks of the spec: {', '.join(spec.task_names)}")
        stage = stage_for_refresh(spec, rows, gate_mode_apart(read_manifest(job.start)) if job.start else "hard")
    elif job.task is not None:
        raise SpecError(f"task: only a job of stage add_task adds one, this is {job.stage}")
    if stage is None:
        raise SpecError(f"the job trains {job.stage}, and the spec of {spec.name} has no such stage: add one")
    if job.refreshed and job.stage != "refresh":
        raise SpecError(f"refreshed: only a job of stage refresh has such, this is {job.stage}")
    if job.stage != "stage_one" and job.start is None:
        raise SpecError(f"{job.stage} starts from a bundle: give `start`")
    return stage


def job_key(job: TrainingJob, stage: StageSpec, dataset_digest: str, kind: tuple[object, ...] = ()) -> str:
    """Of all that the trained weights depend on, beside the code; a checkpoint or result of another key is not used.

    kind: what the kind of model adds.
    """
    spec = job.spec.model_dump(mode="json", include={"mta", "precision", "trunk_cache"})
    tasks = [task.content for task in job.spec.tasks], job.spec.evaluation.max_validation_rows
    if job.start and not (job.start / MANIFEST).is_file():
        raise BundleError(f"{job.start} is no bundle: it has no {MANIFEST}; give the folder that a stage wrote")
    start = bundle_digest(job.start) if job.start else None
    backbone = backbone_record(job.backbone)["digest"]
    own = stage.model_dump(mode="json")
    last = job.spec.stages_end_with(job.stage)
    return digest_of(
        job.stage, job.task, job.refreshed, own, spec, tasks, last, dataset_digest, backbone, start, job.seed, *kind
    )
