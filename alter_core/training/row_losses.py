"""Losses row by row, without answers: what a stage looks at, and what arms of an ablation are compared by."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alter_core.memory import release_free_memory
from alter_core.mta.modes import evaluating, forget_formed
from alter_core.mta.replicas import MOST
from alter_core.training.batches import Batch, collate
from alter_core.training.by_task import Losses
from alter_core.training.encoded import EncodedRows
from alter_core.training.forward import TargetForward
from alter_core.training.lines import Rows
from alter_core.training.replicas import Replicas
from alter_core.training.sampling import spread
from alter_core.training.trunk_cache import TOKENS_PER_BATCH, TrunkCache


def losses_of(
    forward: TargetForward, rows: EncodedRows, pad: int, cache: TrunkCache | None, autocast: bool = False
) -> Losses:
    """Mean loss over its target's tokens of each row (row,), in nats. cache: of these rows, filled; None: none."""
    found = np.zeros(len(rows))
    lengths, packed = rows.prompts.lengths + rows.targets.lengths, forward.can_pack(rows.longest)
    device = next(forward.blocks.parameters()).device

    @torch.no_grad()  # in each thread
    def run(replica: TargetForward, own: Sequence[Rows]) -> None:
        for part in own:
            batch = collate(rows, part, pad, replica.decoder_start, packed).to(device)
            losses = token_losses(replica, batch, cache, autocast) * batch.weights
            owners = np.repeat(batch.rows, rows.targets.lengths[batch.rows])
            np.add.at(found, owners, losses.double().cpu().numpy())  # no row is in two parts
            forget_formed(replica.model)  # the next part is most likely another task's
            release_free_memory()

    with evaluating(forward.model):
        parts = spread(np.arange(len(rows)), lengths, rows.task_ids, packed, TOKENS_PER_BATCH)
        replicas = Replicas(forward, min(MOST, max(1, len(parts))))
        # Parts lie by task, and an MTA layer keeps each task's weights: so each replica has few tasks.
        ends = [len(parts) * number // len(replicas) for number in range(len(replicas) + 1)]
        replicas.together(run, [parts[first:end] for first, end in pairwise(ends)])
        replicas.close()
    return found


def token_losses(forward: TargetForward, batch: Batch, cache: TrunkCache | None, autocast: bool) -> Tensor:
    """Loss of each target token (target,) of a batch on the model's device."""
    device = batch.inputs.device
    states = cache.states(batch).to(device, non_blocking=True) if cache else None
    context: AbstractContextManager[Any] = torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()
    with context:
        logits = forward.logits(batch, states)
    return F.cross_entropy(logits.float(), batch.targets, reduction="none")
