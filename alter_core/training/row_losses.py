"""Losses row by row, without answers: what a stage looks at, and what arms of an ablation are compared by."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alter_core.mta.modes import evaluating
from alter_core.training.batches import Batch, EncodedRows, collate, spread
from alter_core.training.by_task import Losses
from alter_core.training.forward import TargetForward
from alter_core.training.trunk_cache import TOKENS_PER_BATCH, TrunkCache


@torch.no_grad()
def losses_of(
    forward: TargetForward, rows: EncodedRows, pad: int, cache: TrunkCache | None, autocast: bool = False
) -> Losses:
    """Mean loss over its target's tokens of each row (row,), in nats. cache: of these rows, filled; None: none."""
    found = np.zeros(len(rows))
    lengths, packed = rows.prompts.lengths + rows.targets.lengths, forward.can_pack(rows.longest)
    device = next(forward.blocks.parameters()).device
    with evaluating(forward.model):
        for part in spread(np.arange(len(rows)), lengths, rows.task_ids, packed, TOKENS_PER_BATCH):
            batch = collate(rows, part, pad, forward.decoder_start, packed).to(device)
            losses = token_losses(forward, batch, cache, autocast) * batch.weights
            owners = np.repeat(batch.rows, rows.targets.lengths[batch.rows])
            np.add.at(found, owners, losses.double().cpu().numpy())
    return found


def token_losses(forward: TargetForward, batch: Batch, cache: TrunkCache | None, autocast: bool) -> Tensor:
    """Loss of each target token (target,) of a batch on the model's device."""
    device = batch.inputs.device
    states = cache.states(batch).to(device, non_blocking=True) if cache else None
    context: AbstractContextManager[Any] = torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()
    with context:
        logits = forward.logits(batch, states)
    return F.cross_entropy(logits.float(), batch.targets, reduction="none")
