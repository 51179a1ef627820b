"""Whether the weights in memory are those that lie in the folder: all of them, none beside them, unchanged."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from alter_core.backbone.find import Source
from alter_core.errors import BackboneError
from alter_core.mta.fingerprint import tensor_digest
from alter_core.problems import first

SHOWN = 5
_DERIVED = ("rope_freqs.weight",)  # tensors of GGUF files that transformers computes from the configuration


def stored_dtype(source: Source) -> torch.dtype | None:
    """The widest floating-point type that the files hold: read as it, no weight is rounded. None: no safetensors."""
    found = {tensor.dtype for _, tensor in _stored(source, values=False)}
    floats = [dtype for dtype in found if dtype.is_floating_point]
    widest: torch.dtype | None = None
    for dtype in floats:
        widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return widest


def check_weights(model: Any, about: Mapping[str, Collection[str]], source: Source) -> list[str]:
    """Notes on what is in the files and not in `model`, which is as it was read; about: transformers' loading info.

    Raises BackboneError where weights are missing, would be lost, have other values, or are no numbers.
    """
    given = source.given
    if missing := sorted(about["missing_keys"]):  # transformers fills them with random numbers
        raise BackboneError(
            f"backbone {given}: its files lack {len(missing)} of the weights that its configuration asks for; "
            "save the whole model again, head included, or mend its config.json",
            first(missing, SHOWN),
        )
    if lost := sorted(about["unexpected_keys"]):
        raise BackboneError(
            f"backbone {given}: its files hold {len(lost)} weights that its configuration has no place for, so that it "
            "would be another model without them; mend its config.json (biases, number of blocks, kind of head), or "
            "save the model again",
            first(lost, SHOWN),
        )
    own = dict(model.state_dict()) | dict(model.named_buffers())
    if broken := sorted(name for name, tensor in own.items() if not bool(torch.isfinite(tensor).all())):
        raise BackboneError(
            f"backbone {given}: {len(broken)} of its weights hold values that are no numbers (NaN or infinite); take "
            "an earlier state of the model",
            first(broken, SHOWN),
        )
    if source.gguf:
        _check_gguf(model, source)
        return []
    digests: set[str] | None = None
    changed, left_out = [], []
    for name, tensor in _stored(source):
        if name in own:
            if own[name].shape != tensor.shape or not torch.equal(own[name].cpu(), tensor.to(own[name].dtype)):
                changed.append(name)
            continue
        if digests is None:  # under another name, as transformers renames some and ties others
            digests = {tensor_digest(held) for held in own.values()}
        dtype = model.dtype if tensor.is_floating_point() else tensor.dtype
        if tensor_digest(tensor.to(dtype)) not in digests:
            left_out.append(name)
    if changed:
        raise BackboneError(
            f"backbone {given}: {len(changed)} of its weights are not read as its files hold them; save the model "
            "again with the installed version of transformers",
            first(changed, SHOWN),
        )
    if not left_out:
        return []
    named = ", ".join(left_out[:SHOWN]) + (f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else "")
    return [f"tensors in its files that transformers has no use for in a {type(model).__name__}: {named}"]


def untie(model: Any) -> list[str]:
    """Let the configuration say that the output head is apart where the files hold one of its own; notes."""
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    if tied or not getattr(model.config, "tie_word_embeddings", False):
        return []
    model.config.tie_word_embeddings = False
    return [
        "its configuration ties the output head to the embeddings, and its files hold two: both are kept as they are"
    ]


def _check_gguf(model: Any, source: Source) -> None:
    """transformers passes over tensors of a GGUF file that it has no name for."""
    from gguf import GGUFReader

    reader = GGUFReader(source.folder / str(source.gguf))
    stored = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors if tensor.name not in _DERIVED}
    held = sum(parameter.numel() for parameter in model.parameters())
    if (surplus := sum(stored.values()) - held) > 0:
        raise BackboneError(
            f"backbone {source.given}: its file holds {surplus:,} values more than the model that transformers makes "
            "of it, so that it would be another one without them; save it as safetensors with the tool that knows it"
        )


def _stored(source: Source, values: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all that the safetensors files hold; without `values` the first row of each."""
    for path in source.weight_files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                if values:
                    yield name, file.get_tensor(name)
                else:
                    part = file.get_slice(name)
                    yield name, part[:1] if part.get_shape() else file.get_tensor(name)
