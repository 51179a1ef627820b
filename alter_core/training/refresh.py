"""Refresh: tasks whose rows have changed learn anew while all others stay as they are, to the bit."""

import shutil
from collections.abc import Sequence
from dataclasses import replace

import torch

from alter_core.errors import SpecError, TrainingError
from alter_core.mta import load_bundle, save_bundle
from alter_core.mta.model import MTAModel
from alter_core.training.apart import WAY
from alter_core.training.order import TrainingJob
from alter_core.training.result import RESULT_FILE, StageResult


def check_apart(mta: MTAModel, refreshed: Sequence[str]) -> None:
    """Raises SpecError where a task that is not refreshed lives on the adapter of one that is."""
    for layer in mta.layers if refreshed else []:
        homes = dict(zip(mta.tasks, layer.gate.homes, strict=True))
        touched = {homes[task] for task in refreshed}
        sharing = [task for task, home in homes.items() if home in touched and task not in refreshed]
        if sharing:
            raise SpecError(f"{', '.join(sharing)}: on an adapter of a task that is refreshed (mta > homes); {WAY}")
        if not layer.gate.task_active:
            raise SpecError(f"no task adapter is in use, as the last stage has active: shared; {WAY}")


@torch.no_grad()
def take_back(job: TrainingJob) -> StageResult:
    """Write the bundle `start`, in which the refreshed tasks have their own weights of the bundle `taken_back` again.

    Its result is that of `start`, which lies beside it, with those tasks no longer among the ones that it made better.
    """
    assert job.start is not None
    assert job.taken_back is not None
    (mta, tokenizer, metadata), (former, _, _) = (
        load_bundle(each, job.backbone) for each in (job.start, job.taken_back)
    )
    refreshed = StageResult.read(job.start.parent / RESULT_FILE)
    if refreshed is None or mta.tasks != former.tasks:
        raise TrainingError(f"{job.start} is no refresh of {job.taken_back}: run the domain again")
    weights, before = dict(mta.model.named_parameters()), dict(former.model.named_parameters())
    for task in job.refreshed:
        for name, places in mta.own_places(mta.tasks.index(task)).items():
            weights[name][places] = before[name][places]
    shutil.rmtree(job.output / "bundle", ignore_errors=True)  # of a job that was killed just before its result
    digest = save_bundle(mta, tokenizer, job.output / "bundle", metadata)
    shutil.copy(job.start.parent / "metrics.jsonl", job.output / "metrics.jsonl")
    better = {name: at for name, at in (refreshed.validation.by_task or {}).items() if name not in job.refreshed}
    result = replace(
        refreshed, validation=replace(refreshed.validation, by_task=better), bundle_digest=digest, untouched_digest=None
    )
    result.write(job.output / RESULT_FILE)
    return result
