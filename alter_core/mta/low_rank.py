"""The standard low-rank form: one plain base for every task, and one LoRA of each, as peft lays them out.

    theta_t = base + B_t A_t      A_t: the A_k one upon the other, B_t: scale g_tk B_k side by side

over the low-rank adapters k that task t weighs. Exact for mixing in weight space, as gates do not look at the input.
The base holds what is the same for all tasks: the backbone, the shared FFN beneath, and full FFNs that every task
weighs alike. Adding a task changes neither the base nor the other tasks' adapters.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alter_core.errors import MTAError
from alter_core.mta.adapters import FFNBank, LoRABank
from alter_core.mta.ffn import DOWN, FFNWeights
from alter_core.mta.folding import plain_model, task_number
from alter_core.mta.layer import MTALayer
from alter_core.mta.mixing import Mixture, form
from alter_core.mta.model import MTAModel
from alter_core.whole import write_json, written_whole

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `max_lora_rank` may be (MaxLoRARanks in vllm/config/lora.py)."""

LowRank = dict[str, tuple[Tensor, Tensor]]
"""Path of a linear in the plain model -> A (rank, in) and B (out, rank), fp32; one rank for all."""


def vllm_rank(rank: int) -> int | None:
    """The least `max_lora_rank` that takes adapters of `rank`; None where none does."""
    return next((size for size in VLLM_RANKS if size >= rank), None)


@torch.no_grad()
def check_low_rank(mta: MTAModel) -> None:
    """Raises MTAError, with every reason, where the tasks of `mta` have no exact low-rank form."""
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for layer in mta.layers:
        table = layer.gate.table()
        if layer.config.mixing == "output" and layer.active_banks() and int((table > 0).sum(1).max()) > 1:
            reasons["mixing output sums what several adapters answer, not their weights"].append(layer.name)
        for bank, first, size in layer.active_banks():
            own = table[:, first : first + size]
            if isinstance(bank, FFNBank) and bool((own != own[:1]).any()):
                kind = "shared FFN beside" if bank is layer.shared else "full FFN of a task (adapter: ffn)"
                reasons[f"a {kind} weighs more in one task than in another"].append(layer.name)
    found = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    if not mta.layers:
        found = ["there is no MTA layer, so that no task differs from another"]
    if found:
        way = "--format merged writes one task as a plain model, or as one GGUF file with --format gguf --task TASK"
        raise MTAError("these tasks have no exact form as one base with a LoRA each", [*found, way])


def base_model(mta: MTAModel) -> nn.Module:
    """Return what tasks have in common, a plain model of the backbone's class. Raises MTAError as `check_low_rank`."""
    check_low_rank(mta)
    return plain_model(mta, _common)


@torch.no_grad()
def low_rank(mta: MTAModel, task: str, fill: bool = False) -> tuple[int, LowRank]:
    """Return the rank of `task` and its change of each linear. fill: zeros up to the next of VLLM_RANKS.

    Adapters that the task does not weigh are left out. Raises MTAError as `check_low_rank`, for an unknown task, and
    where vLLM takes no rank so high and it was to be filled.
    """
    check_low_rank(mta)
    number = task_number(mta, task)
    parts = {name: _stacked(layer, role, number) for layer in mta.layers for role, name in _linears(mta, layer).items()}
    rank = max(1, *(a.shape[0] for a, _ in parts.values()))
    if fill:
        if (size := vllm_rank(rank)) is None:
            raise MTAError(f"task {task!r} has rank {rank}, and vLLM takes at most {VLLM_RANKS[-1]}: leave it as it is")
        rank = size
    return rank, {name: (_filled(a, rank), _filled(b.T, rank).T.contiguous()) for name, (a, b) in parts.items()}


def save_adapter(mta: MTAModel, task: str, directory: Path, fill: bool = False) -> int:
    """Write `task` as peft reads it to `directory`, whole or not at all, and return its rank. Raises as `low_rank`."""
    rank, found = low_rank(mta, task, fill)
    model: Any = mta.model
    tensors = {
        f"base_model.model.{n}.lora_{k}.weight": t for n, ab in found.items() for k, t in zip("AB", ab, strict=True)
    }
    out_first = all(
        isinstance(getattr(layer.base, n), nn.Linear) for layer in mta.layers for n in layer.ffn.linears.values()
    )
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": rank,  # the scale is in B
        **_targets(mta, list(found)),
        "fan_in_fan_out": not out_first,
        "bias": "none",
        "modules_to_save": None,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    with written_whole(directory) as work:
        work.mkdir()
        save_file(tensors, work / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(work / "adapter_config.json", config)
    return rank


def _common(layer: MTALayer) -> FFNWeights:
    """The FFN beneath all low-rank changes; full FFNs in it weigh what they weigh for any task."""
    table = layer.gate.table()[:1].clone()
    for bank, first, size in layer.active_banks():
        if isinstance(bank, LoRABank):
            table[:, first : first + size] = 0
    mixture = Mixture(layer.ffn, layer.base, layer.common(), table, layer.active_banks())
    return form(mixture, [0], torch.float32)[0]


def _stacked(layer: MTALayer, role: str, task: int) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) of a task at one linear, of as many ranks as it weighs."""
    ffn, hidden = layer.ffn.sizes(layer.base)
    inside, outside = (ffn, hidden) if role == DOWN else (hidden, ffn)
    a, b = [torch.zeros(0, inside)], [torch.zeros(0, outside)]
    for bank, first, size in layer.active_banks():
        if isinstance(bank, LoRABank):
            own = layer.gate.table()[task, first : first + size].cpu()
            scaled = bank.b[role].float().cpu() * (bank.scale * own)[:, None, None]
            a.append(bank.a[role].float().cpu()[own > 0].flatten(0, 1))
            b.append(scaled[own > 0].flatten(0, 1))
    return torch.cat(a), torch.cat(b).T


def _filled(matrix: Tensor, rank: int) -> Tensor:
    """With rows of zeros up to `rank`."""
    return torch.cat([matrix, matrix.new_zeros(rank - matrix.shape[0], matrix.shape[1])])


def _linears(mta: MTAModel, layer: MTALayer) -> dict[str, str]:
    """Role of a linear -> its path in the plain model."""
    place = [mta.architecture.blocks[layer.side], str(layer.block), mta.architecture.ffn[layer.side]]
    return {role: ".".join(filter(None, [*place, name])) for role, name in layer.ffn.linears.items()}


def _targets(mta: MTAModel, paths: list[str]) -> dict[str, Any]:
    """What peft changes: linears by name in some blocks; or by path, where there are two sides, or the name of one
    means another linear of a block as well (GPT-2's c_proj)."""
    names = sorted({path.rpartition(".")[2] for path in paths})
    ours = {id(module) for layer in mta.layers for module in layer.modules()}
    others = {
        name.rpartition(".")[2]
        for layer in mta.layers
        for name, module in mta.sides[layer.side][layer.block].named_modules()
        if id(module) not in ours and not isinstance(module, nn.Identity)
    }
    if len(mta.sides) > 1 or others & set(names):
        return {"target_modules": paths}
    (blocks,) = mta.architecture.blocks.values()
    numbers = sorted(layer.block for layer in mta.layers)
    return {"target_modules": names, "layers_to_transform": numbers, "layers_pattern": blocks.rpartition(".")[2]}
