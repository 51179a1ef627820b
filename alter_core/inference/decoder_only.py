"""DecoderOnly: a batch in a decoder-only model."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from alter_core.errors import MTAError
from alter_core.inference.attention import PLAIN, PLAIN_TOKENS, attention
from alter_core.inference.prefixes import Prefixes, Prompt, batched, widened
from alter_core.inference.reading import Reading, Routing, padded, parts_of
from alter_core.inference.trunk import Trunk
from alter_core.mta.architectures import find_architecture, find_blocks


@dataclass(frozen=True)
class _Part:
    rows: range
    mask: Tensor
    """(row, seq); 0 at padding."""
    cache: Any


class DecoderOnly(Reading):
    """A batch in a decoder-only model: prompts padded on the left, so that all rows write at the same place.

    prefixes: the model's own. known: how many tokens of each prompt are its task's prefix. trunk: what the model has in
    common with others that read the same batch, and its blocks.
    """

    def __init__(
        self,
        model: Any,
        tasks: Sequence[str],
        prompts: Sequence[Prompt],
        pad: int,
        routing: Routing,
        prefixes: Prefixes,
        known: Sequence[int],
        trunk: tuple[Trunk, nn.ModuleList] | None = None,
    ) -> None:
        super().__init__(model, tasks, prompts, pad, routing)
        self._prefixes = prefixes
        self._known = known
        self._trunk = trunk
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._last_ffn = last_ffn(model)
        self.parts: list[_Part] = []
        self.cache: Any = None
        self.mask = torch.zeros(0)

    def start(self, room: int) -> Tensor:
        # A window of attention counts places of the cache, and between a prefix and a shorter row's rest lies padding.
        window = getattr(self.model.config, "sliding_window", None)
        whole = window is not None and max(map(len, self.prompts)) + room >= window
        known = [0] * len(self.prompts) if whole else self._known
        begun = {task: prompt[:own] for task, prompt, own in zip(self.tasks, self.prompts, known, strict=True) if own}
        held = self._prefixes.caches(self.model, begun, self._read_prefix)
        rests = [prompt[own:] for prompt, own in zip(self.prompts, known, strict=True)]
        logits = []
        for rows in [range(len(rests))] if whole else parts_of(rests, self.device):
            prefixes = [held[self.tasks[row]] if known[row] else None for row in rows]
            part, own = self._read_part(rows, [rests[row] for row in rows], prefixes)
            self.parts.append(part)
            logits.append(own)
        return torch.cat(logits)

    def _read_prefix(self, task: str, prefix: Prompt) -> Any:
        ids, cache = torch.tensor([prefix], device=self.device), self._cache()
        self._read([task], ids, torch.ones_like(ids), cache)
        return cache

    def _read_part(self, rows: range, rests: Sequence[Prompt], prefixes: Sequence[Any | None]) -> tuple[_Part, Tensor]:
        """What follows each row's prefix, of which it may have none."""
        cache = self._cache()
        ids, mask = padded(rests, self.pad, left=True, device=self.device)
        if any(prefix is not None for prefix in prefixes):
            for number, (keys, values) in enumerate(batched(prefixes)):
                cache.update(keys, values, number)
            lengths = torch.tensor([[0 if prefix is None else prefix.get_seq_length()] for prefix in prefixes])
            known = torch.arange(int(lengths.max()), 0, -1) <= lengths
            mask = torch.cat([known.to(mask), mask], 1)
        with ExitStack() as stack:
            if self._trunk is not None:
                trunk, blocks = self._trunk
                stack.enter_context(trunk.forward(len(self.parts), blocks, cache))
            logits = self._read([self.tasks[row] for row in rows], ids, mask, cache)
        return _Part(rows, mask, cache), logits

    def _read(self, tasks: Sequence[str], ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """A forward over prompts, or parts of them. The last FFN runs at the last token, whose logits are read."""
        with ExitStack() as stack:
            if self._last_ffn is not None:
                stack.enter_context(_only_last(self._last_ffn))
            if self.device.type == "cpu" and self.model.dtype == torch.bfloat16 and ids.shape[1] <= PLAIN_TOKENS:
                stack.enter_context(attention(self.model, PLAIN))
            return self._forward(tasks, ids, mask, cache)

    @property
    def may_join(self) -> bool:
        return not has_windows(self.model.config)  # a window counts the padding that a longer row brings

    def absorb(self, other: "DecoderOnly") -> None:
        """Have the rows of `other`, which has been started, behind these; `keep` must follow. Where `may_join`."""
        count = len(self.tasks)
        if not self.parts:
            self.parts = [_Part(range(count), self.mask, self.cache)]
        for part in other.parts:
            rows = range(part.rows.start + count, part.rows.stop + count)
            self.parts.append(_Part(rows, part.mask, part.cache))
        self.tasks += other.tasks

    def keep(self, kept: Tensor) -> None:
        self.tasks = [self.tasks[row] for row in kept.tolist()]
        if self.parts:
            self._join(kept)
        else:
            self.cache.batch_select_indices(kept)
            self.mask = self.mask[kept]

    def _join(self, kept: Tensor) -> None:
        """One cache of the rows `kept` of all parts."""
        living = []
        for part in self.parts:
            chosen = kept[(kept >= part.rows.start) & (kept < part.rows.stop)] - part.rows.start
            if len(chosen):
                living.append((part, chosen))
        width = max(part.mask.shape[1] for part, _ in living)
        self.mask = torch.cat([widened(part.mask[chosen, None, :, None], width) for part, chosen in living])[:, 0, :, 0]
        self.cache = self._cache()
        for number in range(len(living[0][0].cache.layers)):
            layers = [part.cache.layers[number] for part, _ in living]
            joined = []
            for name in ("keys", "values"):
                own = [getattr(layer, name)[chosen] for layer, (_, chosen) in zip(layers, living, strict=True)]
                joined.append(torch.cat([widened(part, width) for part in own]))
                for layer in layers:
                    setattr(layer, name, None)  # two whole copies would be the peak of memory
            self.cache.update(*joined, number)
        self.parts = []

    def step(self, token: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(token), 1)], 1)
        return self._forward(self.tasks, token[:, None], self.mask, self.cache)

    def _forward(self, tasks: Sequence[str], ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with self.routing(tasks):
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **({"position_ids": positions} if self._takes_positions else {}),
                **self._last_only,
            )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _cache(self) -> Any:
        return DynamicCache(config=self.model.config)


def has_windows(config: Any) -> bool:
    """Whether some block sees a window of the tokens before alone."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return getattr(config, "sliding_window", None) is not None or kinds != {"full_attention"}


def last_ffn(model: Any) -> nn.Module | None:
    """The FFN of the last block, above which nothing looks at other tokens; None where it is no module of its own."""
    with suppress(MTAError, AttributeError):
        architecture = find_architecture(model)
        path = architecture.ffn["decoder"]
        return find_blocks(model, architecture)["decoder"][-1].get_submodule(path) if path else None
    return None


@contextmanager
def _only_last(ffn: nn.Module) -> Iterator[None]:
    """Let an FFN run at the last token of each row (row, seq, hidden) alone; zeros elsewhere."""

    def after(_ffn: nn.Module, _args: Any, out: Tensor) -> Tensor:
        return nn.functional.pad(out, (0, 0, seq.pop() - 1, 0))

    def before(_ffn: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seq.append(args[0].shape[1])
        return (args[0][:, -1:], *args[1:])

    seq: list[int] = []
    handles = [ffn.register_forward_pre_hook(before), ffn.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
