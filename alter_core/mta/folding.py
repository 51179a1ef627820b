"""fold: one task's plain Hugging Face model, with no trace of MTA layers in it.

Exact for mixing in weight space: the task's FFN is an ordinary FFN. In output space it is exact only where the task has
a single adapter of weight 1.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alter_core.errors import MTAError
from alter_core.mta.ffn import DOWN, FFNWeights, InlineFFN
from alter_core.mta.greedy import greedy
from alter_core.mta.layer import MTALayer
from alter_core.mta.model import MTAModel
from alter_core.mta.modes import evaluating
from alter_core.mta.routing import RoutedCheckpoint, RowCheck
from alter_core.whole import written_whole

Batch = Mapping[str, Tensor]


@torch.no_grad()
def fold(mta: MTAModel, task: str, *, approximate: bool = False) -> nn.Module:
    """Return a plain model of the backbone's class that answers as `mta` does for `task`; `mta` stays as it is.

    Raises MTAError for an unknown task, and where the fold cannot be exact unless `approximate`: output mixing is then
    replaced by weight mixing. `fold_loss` measures what that costs.
    """
    number = task_number(mta, task)
    reasons = inexact(mta, task)
    if reasons and not approximate:
        way = "approximate=True (`alter export --approximate`) folds it all the same; `fold_loss` measures the cost"
        raise MTAError(f"task {task!r} cannot be folded exactly", [*reasons, way])
    return plain_model(mta, lambda layer: layer.form([number], torch.float32)[0])


@torch.no_grad()
def plain_model(mta: MTAModel, ffn_of: Callable[[MTALayer], FFNWeights]) -> nn.Module:
    """Return a plain model of the backbone's class, with `ffn_of` each MTA layer in its place; `mta` stays as it is."""
    replaced: dict[int, Any] = {}
    for layer in mta.layers:
        block = mta.sides[layer.side][layer.block]
        base = copy.deepcopy(layer.base)
        layer.ffn.write(base, ffn_of(layer))
        if isinstance(base, InlineFFN):
            names = (layer.ffn.linears["up"], layer.ffn.linears[DOWN], layer.ffn.activation)
            replaced.update({id(getattr(block, name)): getattr(base, name) for name in names})
        else:
            replaced[id(layer)] = base
    # deepcopy takes what its memo holds for a module instead of copying it: so the FFNs fall into place.
    plain: nn.Module = copy.deepcopy(mta.model, replaced)
    for module in plain.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if isinstance(checkpoint, RoutedCheckpoint):
            module._gradient_checkpointing_func = checkpoint.inner  # type: ignore[assignment]
    for layer in mta.layers:
        if isinstance(layer.base, InlineFFN):
            block = plain.get_submodule(mta.architecture.blocks[layer.side])[layer.block]  # type: ignore[index]
            if mta.architecture.flattens:
                for key, hook in list(block._forward_pre_hooks.items()):
                    if isinstance(hook, RowCheck):
                        del block._forward_pre_hooks[key]
            if mta.architecture.inner_dropout:
                setattr(block, mta.architecture.inner_dropout, layer.base.inner_dropout)
    for parameter in plain.parameters():
        parameter.requires_grad_(True).grad = None
    return plain.eval()


def export(mta: MTAModel, tokenizer: Any | None, task: str, directory: Path, *, approximate: bool = False) -> None:
    """Write `task` folded to `directory`, as transformers alone loads it: safetensors, configuration, tokenizer.

    Its generation settings are written anew, whatever the backbone's own say: greedy, with the end tokens that were
    taught. The folder appears whole or not at all. Raises MTAError as `fold` does, and when `directory` exists.
    """
    directory = Path(directory)
    if directory.exists():
        raise MTAError(f"{directory} exists already; name a folder that is not there yet")
    save_plain(fold(mta, task, approximate=approximate), tokenizer, directory)


def save_plain(plain: Any, tokenizer: Any | None, directory: Path) -> None:
    """Write a plain model and its tokenizer to `directory`, whole or not at all; generation settings as `export`."""
    plain.generation_config = greedy(plain, tokenizer)
    plain.config.task_specific_params = None  # of transformers' pipelines: beams, lengths, prefixes
    with written_whole(directory) as work:
        plain.save_pretrained(work)
        if tokenizer is not None:
            tokenizer.save_pretrained(work)


def task_number(mta: MTAModel, task: str) -> int:
    """Return the id of `task`. Raises MTAError that lists the known ones."""
    if task not in mta.tasks:
        raise MTAError(f"no task {task!r}", [f"known tasks: {', '.join(mta.tasks)}"])
    return mta.tasks.index(task)


@torch.no_grad()
def inexact(mta: MTAModel, task: str) -> list[str]:
    """Return, a line per reason, why folding `task` cannot be exact; nothing when it is."""
    number = task_number(mta, task)
    reasons = []
    for layer in mta.layers:
        if layer.config.mixing == "output" and layer.active_banks():
            used = int((layer.gate.table()[number] > 0).sum())
            if used > 1:
                reasons.append(f"{layer.name}: mixing output sums the outputs of {used} adapters, not their weights")
    return reasons


@torch.no_grad()
def fold_loss(mta: MTAModel, plain: nn.Module, task: str, batch: Batch) -> dict[str, float]:
    """Return how far `plain` is from `mta` on `batch`, rows of `task`: what an approximate fold costs.

    largest_logit_change: the largest absolute difference of a logit. mean_kl: mean Kullback-Leibler divergence in
    nats per position. same_top: share of positions with the same most likely token. Padding positions count too.
    """
    rows = next(iter(batch.values())).shape[0]
    with evaluating(mta.model), mta.routing([task] * rows):
        ours = mta.model(**batch).logits.float()
    theirs = plain(**batch).logits.float()
    divergence = (ours.log_softmax(-1).exp() * (ours.log_softmax(-1) - theirs.log_softmax(-1))).sum(-1)
    return {
        "largest_logit_change": float((ours - theirs).abs().max()),
        "mean_kl": float(divergence.mean()),
        "same_top": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
    }
