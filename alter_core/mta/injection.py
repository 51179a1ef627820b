"""inject: put MTA layers where a backbone's FFN sub-layers stand, without changing what it computes."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from alter_core.errors import MTAError
from alter_core.mta.architectures import Architecture, Side, chosen_blocks, find_architecture, find_blocks
from alter_core.mta.ffn import FFN, InlineFFN
from alter_core.mta.fingerprint import backbone_digests
from alter_core.mta.layer import MTALayer
from alter_core.mta.model import MTAModel
from alter_core.mta.routing import Router, RowCheck
from alter_core.spec.mta import MTAConfig


def inject(
    model: nn.Module,
    config: MTAConfig,
    tasks: Sequence[str],
    *,
    dtype: torch.dtype | None = None,
    fingerprint: bool = True,
) -> MTAModel:
    """Replace the FFN sub-layers that `config` chooses by MTA layers, in place, and return the handle on them.

    `model` is a Hugging Face model with its language model head. Its logits stay as they are: adapters start as
    copies of the FFN or with a zero delta. Set the seed before: lora adapters draw random numbers.
    Adapters take the FFN's dtype, or `dtype` (float32 master weights over a bfloat16 backbone, say).

    `fingerprint` takes a digest of each backbone weight first, which a bundle that refers to its backbone needs.

    Raises MTAError, with every problem found, for an unknown architecture, blocks that do not exist, tasks that are
    none or double, homes that name an unknown task, or a model that has MTA layers already.
    """
    architecture = find_architecture(model)
    if any(isinstance(m, MTALayer) for m in model.modules()):
        raise MTAError(f"{type(model).__name__} has MTA layers already: load the backbone anew")
    adapters, homes = home_adapters(tasks, config.homes)
    blocks = find_blocks(model, architecture)
    chosen = mta_blocks(blocks, config)
    if "encoder" not in blocks and config.encoder_layers not in (None, "none"):
        raise MTAError(
            f"encoder_layers: {config.encoder_layers} given, and {type(model).__name__} has no encoder: unset it"
        )
    digests = backbone_digests(model) if fingerprint else {}
    router = Router(tasks)
    layers = []
    for side, numbers in chosen.items():
        for number in numbers:
            block = blocks[side][number]
            base = _take(block, architecture, architecture.ffn[side])
            ffn = FFN.of(base, architecture)
            own = dtype or ffn.weight(base, "up").dtype
            layer = MTALayer(base, ffn, side, number, config, adapters, homes, router, own)
            layer.train(block.training)
            _put(block, architecture, architecture.ffn[side], layer)
            layers.append(layer)
            if architecture.flattens:
                block.register_forward_pre_hook(RowCheck(router))
    return MTAModel(model, config, router, architecture, blocks, layers, digests)


def mta_blocks(blocks: Mapping[Side, nn.ModuleList], config: MTAConfig) -> dict[Side, list[int]]:
    """Numbers of the blocks that have MTA layers under `config`, per side."""
    return {
        side: chosen_blocks(
            config.encoder_layers if side == "encoder" and config.encoder_layers is not None else config.layers,
            len(found),
            side,
        )
        for side, found in blocks.items()
    }


def home_adapters(tasks: Sequence[str], homes: Mapping[str, str]) -> tuple[list[str], list[int]]:
    """Return the names of the task adapters, and for each task the number of its home among them.

    Raises MTAError for no tasks, a task named twice, and homes that name an unknown task or one that lives elsewhere.
    """
    problems = [f"{name!r} is named twice" for name in dict.fromkeys(tasks) if list(tasks).count(name) > 1]
    known = f"known tasks: {', '.join(tasks)}"
    for task, home in homes.items():
        problems += [f"homes: {name!r} is no task; {known}" for name in (task, home) if name not in tasks]
        if home in homes and homes[home] != home:
            problems.append(f"homes: {task!r} starts on the adapter of {home!r}, which has none: its home is elsewhere")
    if not tasks:
        problems.append("at least one task is needed")
    if problems:
        raise MTAError("these tasks cannot be given adapters", problems)
    named = [homes.get(task, task) for task in tasks]
    adapters = list(dict.fromkeys(named))
    return adapters, [adapters.index(name) for name in named]


def _take(block: nn.Module, architecture: Architecture, path: str) -> nn.Module:
    """Return the block's FFN as one module."""
    if path:
        return block.get_submodule(path)
    names = (architecture.up[0], architecture.down, architecture.activation)
    dropout = architecture.inner_dropout
    return InlineFFN({name: getattr(block, name) for name in names}, getattr(block, dropout) if dropout else 0.0)


def _put(block: nn.Module, architecture: Architecture, path: str, layer: MTALayer) -> None:
    """Let `layer` stand for the FFN. Where a block runs its linears itself, the first becomes the whole FFN and what
    the block does after it becomes nothing."""
    if path:
        parent, _, name = path.rpartition(".")
        setattr(block.get_submodule(parent) if parent else block, name, layer)
        return
    setattr(block, architecture.up[0], layer)
    setattr(block, architecture.down, nn.Identity())
    setattr(block, architecture.activation, nn.Identity())
    if architecture.inner_dropout:
        setattr(block, architecture.inner_dropout, 0.0)
