"""What a stage's training took, counted at its end."""

import resource

import torch

from alter_core.spec import StageSpec
from alter_core.training.checkpoint import Progressed
from alter_core.training.forward import TargetForward
from alter_core.training.result import StageCost
from alter_core.training.trainable import Trainable
from alter_core.training.trunk_cache import TrunkCache


def stage_cost(
    done: Progressed, mta: Trainable, stage: StageSpec, forward: TargetForward, cache: TrunkCache | None
) -> StageCost:
    """What the stage took.

    flops: training's forward and backward, counted by torch.utils.flop_counter on the first step and scaled by tokens;
    cache_flops: 2 x trunk parameters x tokens (attention's own products left out).
    """
    counts = mta.parameter_counts()
    trained = {
        part: sum(p.numel() for _, p in named if p.requires_grad) for part, named in mta.parameters_by_part().items()
    }
    trunk = sum(p.numel() for block in list(forward.blocks)[: forward.first] for p in block.parameters())
    device = next(mta.model.parameters()).device
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_bytes()
    return StageCost(
        wall_seconds=sum(done.seconds.values()),
        train_seconds=done.seconds.get("train", 0.0),
        cache_seconds=done.seconds.get("cache", 0.0),
        flops=done.flops_per_token * done.tokens,
        cache_flops=2.0 * trunk * done.cache_tokens,
        cache_mb=cache.bytes / 1e6 if cache else 0.0,
        peak_memory_mb=peak / 1e6,
        trained_parameters=counts["trained"],
        trained_parts={part: count for part, count in trained.items() if count},
        total_parameters=counts["total"],
        steps=done.step,
        rows=done.step * stage.rows_per_step,
        tokens=done.tokens,
        joules=done.joules,
    )


def _peak_bytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux gives kilobytes
