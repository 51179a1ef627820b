"""MTAConfig: where MTA layers go, which adapters they hold, and how a gate mixes them."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from alter_core.spec.section import Section, SpecProblem, spec_error

AdapterKind = Literal["ffn", "lora"]
Mixing = Literal["weight", "output"]
LayerChoice = Annotated[
    str | tuple[int, ...],
    Field(examples=["last_7", "all", "none", [26, 28]]),
]
_LAYER_WORDS = re.compile(r"last_[1-9][0-9]*|all|none")


class MTAConfig(Section):
    """The MTA part of a domain spec; also the configuration of `alter_core.mta` used alone."""

    layers: LayerChoice = "last_7"
    """Blocks whose FFN sub-layer becomes an MTA layer: last_K, all, none, or a list of block numbers from 0."""
    encoder_layers: LayerChoice | None = None
    """The same for the encoder of an encoder-decoder backbone; unset means as `layers`.
    The paper's setting is last_1 in both."""
    adapter: AdapterKind = "lora"
    """Kind of every task adapter. ffn: a copy of the pretrained FFN (the paper's); lora: a low-rank delta on
    each of the FFN's own linears."""
    shared_adapters: int = Field(default=1, ge=0, le=16)
    """How many adapters belong to all tasks."""
    shared_adapter: AdapterKind | None = "ffn"
    """Kind of the shared adapters; null means as `adapter`."""
    shared_place: Literal["beside", "beneath"] = "beneath"
    """beneath: the one shared adapter is always on, outside the gate, and the task adapters are deltas on top of it.
    beside: shared adapters are columns of the gate like any other."""
    homes: dict[str, str] = Field(default_factory=dict)
    """Task name -> the task whose adapter it starts on; unset means its own. Tasks that name the same home share
    one adapter."""
    mixing: Mixing = "weight"
    """weight: a task's FFN is formed as the gated sum of its adapters' weights, then run once. output: every adapter
    runs and the outputs are summed (the paper's)."""
    temperature: float = Field(default=0.1, gt=0)
    """Divides the gate's logits before the softmax."""
    rank: int = Field(default=4, ge=1)
    """Rank of a lora adapter, for each of the FFN's linears."""
    alpha: float | None = Field(default=64.0, gt=0)
    """A lora delta is scaled by alpha / rank; null means alpha = rank."""

    @model_validator(mode="after")
    def _fits_together(self) -> "MTAConfig":
        wrong: list[SpecProblem] = []
        for name in ("layers", "encoder_layers"):
            value = getattr(self, name)
            if isinstance(value, str) and not _LAYER_WORDS.fullmatch(value):
                wrong.append(((name,), f"{value!r} is not last_K, all, none or a list of block numbers"))
            if isinstance(value, tuple) and (not value or min(value) < 0 or len(set(value)) != len(value)):
                wrong.append(((name,), f"{list(value)} must be one or more different block numbers, from 0"))
        if self.shared_place == "beneath" and self.shared_adapters > 1:
            problem = f"beneath lies one shared adapter, and there are {self.shared_adapters}; write beside"
            wrong.append((("shared_place",), problem))
        if wrong:
            raise spec_error(wrong)
        return self

    @property
    def is_beneath(self) -> bool:
        """Whether task adapters lie on a shared one."""
        return self.shared_place == "beneath" and self.shared_adapters > 0
