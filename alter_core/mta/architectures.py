"""Where each architecture keeps its blocks and their FFN sub-layers: one table, no code per architecture.

To add an architecture, add a row to ARCHITECTURES under its `config.model_type` and a tiny configuration of it to
tests/mta/conftest.py; the life-cycle tests then run on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from alter_core.errors import MTAError

Side = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Architecture:
    """Paths to the blocks of a model, and names inside a block's FFN.

    A name with alternatives (T5's plain and gated FFN) lists them; the first that exists counts.
    """

    blocks: Mapping[Side, str]
    """Path from the language model to the list of blocks, per side."""
    ffn: Mapping[Side, str]
    """Path from a block to its FFN module; empty when the block holds the FFN's linears itself."""
    up: tuple[str, ...]
    down: str
    gate: tuple[str, ...] = ()
    """The linear whose activated output multiplies that of `up`, in a gated FFN."""
    activation: str = "act_fn"
    inner_dropout: str | None = None
    """Dropout between the activation and `down`: a module, or a float attribute of the block."""
    outer_dropout: str | None = None
    """Dropout after `down`, inside of the FFN module."""
    flattens: bool = False
    """The block gives its FFN (batch x seq, hidden): rows must be counted at the block's door."""


_LLAMA_LIKE = Architecture(
    blocks={"decoder": "model.layers"},
    ffn={"decoder": "mlp"},
    up=("up_proj",),
    gate=("gate_proj",),
    down="down_proj",
)
_T5_LIKE = Architecture(
    blocks={"encoder": "encoder.block", "decoder": "decoder.block"},
    ffn={"encoder": "layer.1.DenseReluDense", "decoder": "layer.2.DenseReluDense"},
    up=("wi", "wi_1"),
    gate=("wi_0",),
    down="wo",
    activation="act",
    inner_dropout="dropout",
)
_BART_LIKE = Architecture(
    blocks={"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    ffn={"encoder": "", "decoder": ""},
    up=("fc1",),
    down="fc2",
    activation="activation_fn",
    inner_dropout="activation_dropout",
)
ARCHITECTURES: Mapping[str, Architecture] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "olmo2"), _LLAMA_LIKE),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5_LIKE),
    **dict.fromkeys(("bart", "mbart"), _BART_LIKE),
    "gpt2": Architecture(
        blocks={"decoder": "transformer.h"},
        ffn={"decoder": "mlp"},
        up=("c_fc",),
        down="c_proj",
        activation="act",
        outer_dropout="dropout",
    ),
    "gpt_neox": Architecture(
        blocks={"decoder": "gpt_neox.layers"},
        ffn={"decoder": "mlp"},
        up=("dense_h_to_4h",),
        down="dense_4h_to_h",
        activation="act",
    ),
    "opt": Architecture(
        blocks={"decoder": "model.decoder.layers"},
        ffn={"decoder": ""},
        up=("fc1",),
        down="fc2",
        activation="activation_fn",
        flattens=True,
    ),
}


def find_architecture(model: nn.Module) -> Architecture:
    """Return the table's row for `model`. Raises MTAError that lists the known ones for any other model."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    found = ARCHITECTURES.get(str(model_type))
    if found is None:
        raise MTAError(
            f"{type(model).__name__}: no MTA layers for architecture {model_type!r}",
            [
                f"known: {', '.join(sorted(ARCHITECTURES))}",
                "choose a backbone of one of them, or give this one a row in alter_core/mta/architectures.py that says "
                "where its FFN sub-layers are",
            ],
        )
    return found


def find_blocks(model: nn.Module, architecture: Architecture) -> dict[Side, nn.ModuleList]:
    """Return the list of blocks of each side. Raises MTAError when `model` lacks its language model head."""
    blocks: dict[Side, nn.ModuleList] = {}
    for side, path in architecture.blocks.items():
        try:
            found = model.get_submodule(path)
        except AttributeError as error:
            raise MTAError(
                f"{type(model).__name__} has no {path}: load it with its language model head "
                "(AutoModelForCausalLM or AutoModelForSeq2SeqLM)"
            ) from error
        if not isinstance(found, nn.ModuleList):
            raise MTAError(
                f"{type(model).__name__}: {path} is a {type(found).__name__}, not a list of blocks: correct its row in "
                "alter_core/mta/architectures.py"
            )
        blocks[side] = found
    return blocks


def chosen_blocks(choice: str | tuple[int, ...], count: int, side: Side) -> list[int]:
    """Return the block numbers that `choice` (last_K, all, none or numbers) names among `count` blocks.

    Raises MTAError when it asks for more blocks than there are.
    """
    if isinstance(choice, tuple):
        beyond = [i for i in choice if i >= count]
        if beyond:
            named = ", ".join(map(str, beyond))
            raise MTAError(f"layers: there is no {side} block {named}; the backbone has blocks 0 to {count - 1}")
        return sorted(choice)
    if choice == "none":
        return []
    wanted = count if choice == "all" else int(choice.removeprefix("last_"))
    if wanted > count:
        raise MTAError(f"layers: {choice} asks for {wanted} {side} blocks; the backbone has {count}: ask for fewer")
    return list(range(count - wanted, count))
