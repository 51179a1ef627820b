"""Digests of a backbone's weights, under their own names whether or not MTA layers stand around them."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from alter_core.mta.ffn import InlineFFN
from alter_core.mta.layer import MTALayer
from alter_core.whole import digest_of


def backbone_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the backbone's parameters (tied ones once) and stored buffers, named as without MTA layers."""
    aliases: dict[str, str] = {}
    own: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, MTALayer):
            outside = name.rpartition(".")[0] if isinstance(module.base, InlineFFN) else name
            aliases[f"{name}.base."] = f"{outside}."
            own += [f"{name}.shared.", f"{name}.tasks.", f"{name}.gate."]
    unique = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - unique
    found = {}
    for name, tensor in model.state_dict().items():
        if name in tied or name.startswith(tuple(own)):
            continue
        for inside, outside in aliases.items():
            if name.startswith(inside):
                name = outside + name.removeprefix(inside)
        found[name] = tensor
    return found


def tensor_digest(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.view(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


def backbone_digests(model: nn.Module) -> dict[str, str]:
    """Return `tensor_digest` of each of `backbone_tensors`."""
    tensors = backbone_tensors(model)
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashlib lets go of the GIL
        return dict(zip(tensors, pool.map(tensor_digest, tensors.values()), strict=True))


def digests_digest(digests: Mapping[str, str]) -> str:
    """Return one sha256 for a set of named digests, whatever their order."""
    return hashlib.sha256("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode()).hexdigest()


@torch.no_grad()
def task_digest(layers: Sequence[MTALayer], task: int) -> str:
    """Return a digest of all that makes the FFNs of task number `task` others than the backbone's."""
    held: list[object] = []
    for layer in layers:
        always = layer.beneath()
        held.append([layer.name, [tensor_digest(p) for p in always.parameters()] if always else []])
        weights = layer.gate.table()[task].tolist()
        for bank, first, size in layer.active_banks():
            for k, weight in enumerate(weights[first : first + size]):
                if weight:
                    held.append([weight, [tensor_digest(p[k]) for p in bank.parameters()]])
    return digest_of(held)
