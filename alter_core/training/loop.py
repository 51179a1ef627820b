"""The training loop: one, for every stage. It reads from top to bottom; what varies is in StageSpec."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from alter_core.errors import Diverged, TrainingError
from alter_core.memory import release_free_memory
from alter_core.mta.replicas import MOST
from alter_core.spec import StageSpec
from alter_core.training import checkpoint as checkpoints
from alter_core.training.batches import Batch, collate
from alter_core.training.by_task import Losses
from alter_core.training.checkpoint import Progressed
from alter_core.training.ending import Ending
from alter_core.training.forward import TargetForward
from alter_core.training.lines import Rows
from alter_core.training.replicas import Replicas
from alter_core.training.row_losses import token_losses
from alter_core.training.sampling import SamplingPlan, divide, divide_by_task
from alter_core.training.session import Session, Training
from alter_core.training.stages import (
    Named,
    dropped_at,
    make_optimizer,
    rate_at,
    set_rates,
)

TOKENS_PER_PART = 1024
"""Padding counted: with fewer, a CPU loses more to each part's own cost than shorter lines save it in padding."""
PACKED_TOKENS_PER_PART = 4096
"""Where rows share lines there is little padding to save: parts only bound the memory of activations."""


def train(job: Training) -> tuple[Progressed, Named]:
    """Train one stage to its end, from its last checkpoint where there is one. The model is left as trained.

    Raises Stopped after writing a checkpoint when the process was asked to end, Diverged when the loss is no number
    any more.
    """
    stage, mta = job.stage, job.mta
    forward = TargetForward(mta)
    found = checkpoints.load_checkpoint(job.checkpoint_folder, job.job_key, job.log)
    done = found.progressed if found else Progressed()
    if len(begun := set(gather_object([done.step]))) > 1:
        raise TrainingError(
            f"{job.name}: the processes found checkpoints of steps {', '.join(map(str, sorted(begun)))} in "
            f"{job.checkpoint_folder}: machines that train together need one folder there that all of them see alike, "
            "see docs/scaling.md"
        )
    session = Session(job, done)
    packed = forward.can_pack(max(job.rows.longest, job.validation.longest))
    steps = job.steps
    plan = SamplingPlan.make(job.rows.task_ids, steps, stage.rows_per_step, stage.sampling_temperature, job.seed)
    lengths = job.rows.prompts.lengths + job.rows.targets.lengths

    session.fill_caches(plan)
    if found is None:
        done.gate_tables["before"] = mta.gate_table()
        _look(job, forward, done, "before")
    trained, changed = job.enter()
    if found is None and changed:
        _look(job, forward, done, "opened")
    optimizer = make_optimizer(trained, stage)
    ending = Ending(job, forward, done, trained, found.best if found else None)
    start = {name: p.detach().clone() for name, p in trained if stage.hold and ".gate.logits" in name}
    if found:
        checkpoints.restore(found, trained, optimizer)
        job.log(phase="resume", step=done.step, steps=steps, text=f"going on after step {done.step} of {steps}")
    else:
        ending.begin()

    def save() -> None:
        folder, best = job.checkpoint_folder, ending.weights
        checkpoints.save_checkpoint(folder, job.job_key, job.precision, done, trained, optimizer, best)

    def loss_of(replica: TargetForward, rows: Rows) -> Tensor:
        return (
            _loss(job, replica, collate(job.rows, rows, job.pad, replica.decoder_start, packed)) / stage.rows_per_step
        )

    replicas = _replicas(job, forward, lambda replica: loss_of(replica, plan.rows(0)[:1]))
    session.begin()
    while done.step < steps and not done.stopped_early:
        step = done.step
        torch.manual_seed(_step_seed(job, step))  # dropout: a function of the step, so that resuming repeats it
        set_rates(optimizer, rate_at(stage, step, steps))
        chosen = plan.rows(step)
        parts = _parts(job, lengths, chosen, packed, len(replicas))
        counter = FlopCounterMode(display=False) if step == 0 else nullcontext()
        with counter, ExitStack() as dropped:
            for replica in replicas.forwards:
                dropped.enter_context(replica.mta.leaving_out(dropped_at(stage, step, steps, len(mta.tasks), job.seed)))
            loss = replicas.gradients(loss_of, parts, lengths, [p for _, p in trained], in_turn=step == 0)
        value, stop = _reduced(job, trained, loss)
        if not np.isfinite(value):
            raise Diverged(
                f"{job.name}: the loss is {value} at step {step + 1} of {steps}; lower learning_rate, or set "
                "precision: fp32"
            )
        for name, parameter in trained:
            if name in start and parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start[name], alpha=stage.hold)
        torch.nn.utils.clip_grad_norm_([p for _, p in trained], stage.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done.step += 1
        done.tokens += int(lengths[plan.rows(step)].sum())
        if isinstance(counter, FlopCounterMode):
            done.flops_per_token = counter.get_total_flops() / int(lengths[np.concatenate(parts)].sum())
        session.tell_step(value, optimizer.param_groups[0]["lr"], steps)
        if ending.is_due:
            with session.aside():
                ending.look()
        ending.average()
        session.keep(stop, save)

    ending.put()
    replicas.close()
    mta.model.eval()
    release_free_memory(now=True)
    done.losses["after"] = _by_task(job, job.validation_losses(forward))
    by_task = {task: f"{at.state}, {-at.gain:+.4f}" for task, at in (done.by_task or {}).items()}
    job.log(phase="validate", when="after", losses=done.losses["after"], **({"by_task": by_task} if by_task else {}))
    if not all(bool(p.isfinite().all()) for _, p in trained):  # the last step's doing, which no loss follows
        raise Diverged(
            f"{job.name}: weights are no numbers after step {done.step}; lower learning_rate, or set precision: fp32"
        )
    done.gate_tables["after"] = mta.gate_table()
    session.close()
    return done, trained


def _look(job: Training, forward: TargetForward, done: Progressed, when: str) -> None:
    """Take the validation loss, and the score where the gates of an earlier stage open: neither should change."""
    losses = job.validation_losses(forward)
    done.losses[when] = _by_task(job, losses)
    if job.stage.best_by_task:
        done.row_losses = losses.tolist()
    score = None
    if job.opens_gates and job.score:
        score = done.opening[when] = job.score()
    job.log(phase="validate", when=when, losses=done.losses[when], **(asdict(score) if score else {}))


def _by_task(job: Training, losses: Losses) -> dict[str, float]:
    """The mean loss of each task's validation rows."""
    sums = np.bincount(job.validation.task_ids, losses, len(job.mta.tasks))
    counts = np.bincount(job.validation.task_ids, minlength=len(sums))
    return {task: float(sums[i] / counts[i]) for i, task in enumerate(job.mta.tasks) if counts[i]}


def _replicas(job: Training, forward: TargetForward, loss_of: Callable[[TargetForward], Tensor]) -> Replicas:
    """The model in training mode, as often as this process can run it at once; one where that is not the same."""
    set_training_mode(forward, job.stage)
    most = 1 if job.autocast else MOST  # autocast keeps one store of cast weights for all threads
    replicas = Replicas(forward, most)
    if why := replicas.differ(loss_of):
        replicas.close()
        job.log(phase="start", text=f"{job.name} computes part after part: {why}")
        return Replicas(forward, 1)
    return replicas


def _loss(job: Training, forward: TargetForward, batch: Batch) -> Tensor:
    """Sum over rows of the mean loss of the row's target tokens."""
    batch = batch.to(job.accelerator.device)
    return (token_losses(forward, batch, job.cache, job.autocast) * batch.weights).sum()


def _reduced(job: Training, trained: Named, loss: Tensor) -> tuple[float, bool]:
    """Sum gradients and loss over processes, in one message; return the loss and whether any process must stop."""
    accelerator = job.accelerator
    for _, parameter in trained:
        if parameter.grad is None:  # no row of this step reached it; as zeros, whatever the number of processes
            parameter.grad = torch.zeros_like(parameter)
    stop = job.stop_asked()
    if accelerator.num_processes == 1:
        return float(loss), stop
    grads = [p.grad for _, p in trained if p.grad is not None]
    own = torch.stack((loss.float(), torch.tensor(float(stop), device=loss.device)))
    flat = accelerator.reduce(torch.cat([own, *(g.flatten().float() for g in grads)]), reduction="sum")
    for grad, summed in zip(grads, flat[2:].split([g.numel() for g in grads]), strict=True):
        grad.copy_(summed.view_as(grad))
    return float(flat[0]), bool(flat[1] > 0)


def set_training_mode(forward: TargetForward, stage: StageSpec) -> None:
    """Dropout where something trains; a frozen trunk stays as it is cached, and what reads the tokens before it."""
    model = forward.model
    model.train("backbone" in stage.parts)
    if "backbone" not in stage.parts:
        for side, blocks in forward.mta.sides.items():
            for block in list(blocks)[forward.first_of(side) :]:
                block.train()
    if stage.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _parts(job: Training, lengths: Rows, chosen: Rows, packed: bool, replicas: int) -> list[Rows]:
    """This process's rows of a step, in as many parts as the stage asks, and on a CPU so many that they pad little and
    need little memory."""
    process, processes = job.accelerator.process_index, job.accelerator.num_processes
    count = job.stage.accumulate
    if job.accelerator.device.type == "cpu" and packed:
        return divide_by_task(
            chosen, lengths, job.rows.task_ids, process, processes, count, most=PACKED_TOKENS_PER_PART // replicas
        )
    if job.accelerator.device.type == "cpu":
        tokens = int(lengths[chosen].max()) * len(chosen)
        count = max(count, tokens // (processes * TOKENS_PER_PART))
    return divide(chosen, lengths, process, processes, count)


def _step_seed(job: Training, step: int) -> int:
    return (job.seed * 1_000_003 + step) * 4096 + int(job.accelerator.process_index)
