"""MTAConfig: where MTA layers go, which adapters they hold, and how a gate mixes them."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from alter_core.spec.section import Misfit, Section, misfits

AdapterKind = Literal["ffn", "lora"]
Mixing = Literal["weight", "output"]
LayerChoice = Annotated[
    str | tuple[int, ...],
    Field(examples=["last_4", "all", "none", [26, 28]]),
]
_LAYER_WORDS = re.compile(r"last_[1-9][0-9]*|all|none")


class MTAConfig(Section):
    """The MTA part of a domain spec; also the configuration of `alter_core.mta` used alone."""

    layers: LayerChoice = "last_4"
    """Blocks whose FFN sub-layer becomes an MTA layer: last_K, all, none, or a list of block numbers from 0."""
    encoder_layers: LayerChoice | None = None
    """The same for the encoder of an encoder-decoder backbone; unset means as `layers`.
    The paper's setting is last_1 in both."""
    adapter: AdapterKind = "ffn"
    """Kind of every task adapter. ffn: a copy of the pretrained FFN (the paper's); lora: a low-rank delta on
    each of the FFN's own linears."""
    shared_adapters: int = Field(default=0, ge=0, le=16)
    """How many adapters belong to all tasks."""
    shared_adapter: AdapterKind | None = None
    """Kind of the shared adapters; unset means as `adapter`."""
    shared_place: Literal["beside", "beneath"] = "beside"
    """beside: shared adapters are columns of the gate like any other. beneath: they are always on, outside the
    gate, and the task adapters are deltas on top of them."""
    homes: dict[str, str] = Field(default_factory=dict)
    """Task name -> the task whose adapter it starts on; unset means its own. Tasks that name the same home share
    one adapter."""
    mixing: Mixing = "weight"
    """weight: a task's FFN is formed as the gated sum of its adapters' weights, then run once. output: every adapter
    runs and the outputs are summed (the paper's)."""
    temperature: float = Field(default=0.1, gt=0)
    """Divides the gate's logits before the softmax."""
    rank: int = Field(default=16, ge=1)
    """Rank of a lora adapter, for each of the FFN's linears."""
    alpha: float | None = Field(default=None, gt=0)
    """A lora delta is scaled by alpha / rank; unset means alpha = rank."""

    @model_validator(mode="after")
    def _fits_together(self) -> "MTAConfig":
        wrong: list[Misfit] = []
        for name in ("layers", "encoder_layers"):
            value = getattr(self, name)
            if isinstance(value, str) and not _LAYER_WORDS.fullmatch(value):
                wrong.append(((name,), f"{value!r} is not last_K, all, none or a list of block numbers"))
            if isinstance(value, tuple) and (not value or min(value) < 0 or len(set(value)) != len(value)):
                wrong.append(((name,), f"{list(value)} must be one or more different block numbers, from 0"))
        if self.shared_place == "beneath" and self.shared_adapters != 1:
            wrong.append((("shared_place",), f"beneath needs shared_adapters: 1, got {self.shared_adapters}"))
        if wrong:
            raise misfits(wrong)
        return self
