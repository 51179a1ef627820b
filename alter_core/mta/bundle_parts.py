"""What a bundle's parts hold: the state of MTA layers as JSON and tensors, and tensors put back into models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from torch import Tensor, nn

from alter_core.errors import BundleError
from alter_core.mta.adapters import bank_size, make_bank
from alter_core.mta.fingerprint import backbone_digests, backbone_tensors
from alter_core.mta.layer import MTALayer
from alter_core.mta.manifest import BackboneEntry, LayerState
from alter_core.mta.model import MTAModel
from alter_core.problems import first
from alter_core.spec.stage import GateMode

ALIGNMENT = 64
"""Bytes: tensors that torch makes begin at multiples of this."""


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors takes them: on the CPU, contiguous, no two of the same memory."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def mta_tensors(mta: MTAModel) -> dict[str, nn.Parameter]:
    """Return every adapter and gate parameter as `side.block.part...`."""
    return {
        f"{layer.name}.{part}.{name}": parameter
        for layer in mta.layers
        for part, module in (("shared", layer.shared), ("tasks", layer.tasks), ("gate", layer.gate))
        if module is not None
        for name, parameter in module.named_parameters()
    }


def layer_state(layer: MTALayer) -> LayerState:
    """Return all that a layer holds besides tensors, as JSON."""
    gate = layer.gate
    return {
        "name": layer.name,
        "columns": gate.columns,
        "shared": gate.shared,
        "homes": gate.homes,
        "mode": gate.mode,
        "task_active": gate.task_active,
        "shared_active": gate.shared_active,
        "shared_adapters": 0 if layer.shared is None else bank_size(layer.shared),
        "banks": [bank_size(bank) for bank in layer.tasks],  # type: ignore[arg-type]
        "gate_parts": [list(part.shape) for part in gate.logits],
    }


def restore(mta: MTAModel, states: Sequence[LayerState], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Bring freshly injected layers to `states` and `tensors`. Raises BundleError where the two do not fit."""
    names = [layer.name for layer in mta.layers]
    if names != [state["name"] for state in states]:
        theirs = ", ".join(str(state["name"]) for state in states) or "none"
        raise BundleError(
            f"{where}: its layers ({theirs}) are not those that its settings put on the backbone ({', '.join(names)}): "
            "copy the bundle anew"
        )
    problems = [line for state in states for line in _contradictions(state, len(mta.tasks))]
    if problems:
        raise BundleError(f"{where}: its layers do not fit together: copy the bundle anew", problems)
    for layer, state in zip(mta.layers, states, strict=True):
        _restructure(layer, state)
    assign(mta_tensors(mta), tensors, where)


def _contradictions(state: LayerState, tasks: int) -> list[str]:
    """Return what in a layer's description contradicts itself or the number of tasks."""
    name, columns, homes = state["name"], len(state["columns"]), state["homes"]
    rows = sum(rows for rows, _ in state["gate_parts"])
    checks = {
        f"{name} is described for {len(homes)} tasks, the bundle has {tasks}": len(homes) == tasks,
        f"{name}: {rows} gate rows for {tasks} tasks": rows == tasks,
        f"{name}: adapters and gate columns differ in number": state["shared"] + sum(state["banks"]) == columns,
        f"{name}: a home that is no gate column": all(0 <= home < columns for home in homes),
        f"{name}: gate rows wider than {columns}": all(width <= columns for _, width in state["gate_parts"]),
        f"{name}: gate mode {state['mode']!r}": state["mode"] in get_args(GateMode),
    }
    return [problem for problem, holds in checks.items() if not holds]


def _restructure(layer: MTALayer, state: LayerState) -> None:
    config, like = layer.config, layer.ffn.read(layer.base)
    dtype = like.weights["up"].dtype
    if state["banks"] != [bank_size(bank) for bank in layer.tasks]:  # type: ignore[arg-type]
        full = not layer.is_beneath
        layer.tasks = nn.ModuleList(
            [make_bank(config.adapter, like, size, full, config, dtype) for size in state["banks"]]
        )
    gate = layer.gate
    gate.columns, gate.homes = list(state["columns"]), list(state["homes"])
    gate.shared, gate.mode = state["shared"], state["mode"]
    gate.task_active, gate.shared_active = state["task_active"], state["shared_active"]
    gate.logits = nn.ParameterList([nn.Parameter(torch.zeros(*shape)) for shape in state["gate_parts"]])
    gate.to(like.weights["up"].device)


def assign(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: Path, *, every: bool = True) -> None:
    """Put `tensors` in the place of `targets`' data, dtype included.

    Raises BundleError for names that `targets` lacks, shapes that differ and, with `every`, names that are missing.
    """
    problems = [f"{name}: not in the model" for name in sorted(tensors.keys() - targets.keys())]
    if every:
        problems += [f"{name}: missing" for name in sorted(targets.keys() - tensors.keys())]
    problems += [
        f"{name}: shape {tuple(tensor.shape)}, the model has {tuple(targets[name].shape)}"
        for name, tensor in sorted(tensors.items())
        if name in targets and targets[name].shape != tensor.shape
    ]
    if problems:
        raise BundleError(f"{where}: its tensors do not fit the model: copy the bundle anew", problems)
    for name, tensor in tensors.items():
        targets[name].data = tensor.to(targets[name].device)


def own_memory(model: nn.Module) -> None:
    """Move weights that lie where their file put them into memory of their own.

    On some processors (AVX2 seen) products of matrices differ in their last bits with the place of their operands, so
    that the same weights out of a longer file would answer a little otherwise.
    """
    for parameter in model.parameters():
        if parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()


def load_backbone(place: str, about: BackboneEntry) -> nn.Module:
    """Return the backbone at `place` (folder or hub id), safetensors only. Raises BundleError."""
    found: Any = getattr(transformers, str(about["class"]), None)
    is_model: bool = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not is_model:
        raise BundleError(
            f"the bundle's backbone is a {about['class']}, which is no model class of transformers "
            f"{transformers.__version__}: install a version that has it"
        )
    if not place:
        raise BundleError("this bundle only refers to its backbone and names no source: pass `backbone`")
    dtype = getattr(torch, str(about["dtype"]), None)
    if not isinstance(dtype, torch.dtype):
        raise BundleError(f"the bundle's backbone has the unknown dtype {about['dtype']!r}: copy the bundle anew")
    try:
        kind = transformers.AutoConfig.from_pretrained(place).model_type
        if found.config_class is not None and kind != found.config_class.model_type:
            # Transformers would take defaults for what the configuration lacks, seven billion parameters of them.
            raise BundleError(
                f"the bundle's backbone is a {about['class']}, and {place} holds a model of type {kind}: pass the one "
                "that it was trained on"
            )
        model: nn.Module = found.from_pretrained(place, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["transformers does not say why"])[0]
        raise BundleError(
            f"the backbone cannot be loaded from {place}: {reason}; pass `backbone`, the folder or hub id that holds it"
        ) from error
    return model


def check_backbone(model: nn.Module, expected: Mapping[str, str], where: Path) -> None:
    """Raise BundleError unless every weight of `model` has the digest in `expected`."""
    own = backbone_digests(model)
    problems = [f"{name}: only in the bundle" for name in sorted(expected.keys() - own.keys())]
    problems += [f"{name}: only in the backbone" for name in sorted(own.keys() - expected.keys())]
    problems += [f"{name}: differs" for name in sorted(own.keys() & expected.keys()) if own[name] != expected[name]]
    if problems:
        raise BundleError(
            f"{where} was made on another backbone, or on this one with another dtype: give that one",
            first(problems, 8),
        )


def assign_backbone(model: nn.Module, tensors: Mapping[str, Tensor], where: Path, *, every: bool) -> None:
    """Put backbone weights back under their own names. Raises BundleError as `assign` does."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    targets = {name: named[name] for name in backbone_tensors(model)}
    assign(targets, tensors, where, every=every)
