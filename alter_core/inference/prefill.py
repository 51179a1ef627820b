"""What a batch has read so far, inside of the two kinds of model: prompts in parts of like length, then token by token.

Reading prompts is most of the work where answers are short, and on a CPU three things make it cheap: rows of one part,
whatever their tasks, are nearly of one length, so that little is padding; a part is small enough for the processor's
cache; and what all prompts of a task begin with, its instruction, is read once (`Prefixes`). Parts are rows that follow
each other, so it is for the caller to bring like rows together. Models that are alike below some block read prompts so
far once for all of them (`Trunk`).
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from alter_core.errors import MTAError
from alter_core.inference.attention import PLAIN, PLAIN_TOKENS, attention
from alter_core.inference.prefixes import Prefixes, Prompt, batched, widened
from alter_core.mta.architectures import find_architecture, find_blocks
from alter_core.mta.trunk import skipped

PART_TOKENS = {"cpu": 2048}
"""Prompt tokens of one part, padding counted, by device; elsewhere as many as the batch has, where many is cheap."""
FORWARD_TOKENS = 64
"""As many tokens cost what a forward costs by itself, its weights being read: the most padding of a part."""

Routing = Callable[[Sequence[str]], AbstractContextManager[Any]]


class Reading(ABC):
    """A batch inside of a model. Rows are in the caller's order, less those that `keep` has dropped.

    pad: any token id; padding is masked. routing: carries rows' tasks.
    """

    def __init__(self, model: Any, tasks: Sequence[str], prompts: Sequence[Prompt], pad: int, routing: Routing) -> None:
        self.model = model
        self.tasks = list(tasks)
        self.prompts = prompts
        self.pad = pad
        self.routing = routing
        self.device = next(model.parameters()).device

    @abstractmethod
    def start(self, room: int) -> Tensor:
        """Logits (batch, vocab) after the prompts. room: most tokens that a row will write."""

    @property
    def may_join(self) -> bool:
        """Whether rows that are read later may join these."""
        return False

    @abstractmethod
    def keep(self, kept: Tensor) -> None:
        """Go on with the rows `kept` (row,) alone. Must be called between `start` and the first `step`."""

    @abstractmethod
    def step(self, token: Tensor) -> Tensor:
        """Logits (batch, vocab) after `token` (batch,)."""


class Trunk:
    """What the blocks below `first`, in which models are alike, made of one batch's prompts.

    The first model that reads the batch leaves it here, forward by forward; the others start at block `first`.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._made: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = []
        """Of each forward: states at block `first` (row, seq, hidden); keys and values of each block below."""

    @contextmanager
    def forward(self, number: int, blocks: nn.ModuleList, cache: Any) -> Iterator[None]:
        """Around forward `number` of the batch, which fills `cache`."""
        if number < len(self._made):
            states, held = self._made[number]
            with skipped(blocks, self.first, states):
                yield
            for block, (keys, values) in enumerate(held):
                layer = cache.layers[block]
                if layer.is_initialized:  # with what all prompts begin with, which `keys` hold as well
                    layer.keys, layer.values = keys, values
                else:
                    cache.update(keys, values, block)
            return

        seen: list[Tensor] = []
        handle = blocks[self.first].register_forward_pre_hook(lambda _block, given: seen.append(given[0]))
        try:
            yield
        finally:
            handle.remove()
        self._made.append((seen[0], [(layer.keys, layer.values) for layer in cache.layers[: self.first]]))


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
        for rows in [range(len(rests))] if whole else _parts(rests, self.device):
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


class Seq2Seq(Reading):
    """A batch in an encoder-decoder model: the encoder runs once, over parts."""

    def __init__(self, model: Any, tasks: Sequence[str], prompts: Sequence[Prompt], pad: int, routing: Routing) -> None:
        super().__init__(model, tasks, prompts, pad, routing)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.encoded: Any = None

    def start(self, room: int) -> Tensor:
        self.mask = padded(self.prompts, self.pad, left=False, device=self.device)[1]
        for rows in _parts(self.prompts, self.device):
            ids, mask = padded([self.prompts[row] for row in rows], self.pad, left=False, device=self.device)
            with self.routing([self.tasks[row] for row in rows]):
                out = self.model.get_encoder()(input_ids=ids, attention_mask=mask)
            own = out.last_hidden_state
            if self.encoded is None:
                self.encoded = out
                hidden = own.new_zeros(*self.mask.shape, own.shape[2])
            hidden[rows.start : rows.stop, : own.shape[1]] = own
        self.encoded.last_hidden_state = hidden
        first = torch.full((len(self.tasks),), self.model.config.decoder_start_token_id, device=self.device)
        return self.step(first)

    def keep(self, kept: Tensor) -> None:
        self.tasks = [self.tasks[row] for row in kept.tolist()]
        self.cache.batch_select_indices(kept)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[kept]
        self.mask = self.mask[kept]

    def step(self, token: Tensor) -> Tensor:
        with self.routing(self.tasks):
            out = self.model(
                encoder_outputs=self.encoded,
                attention_mask=self.mask,
                decoder_input_ids=token[:, None],
                past_key_values=self.cache,
                use_cache=True,
            )
        logits: Tensor = out.logits[:, -1]
        return logits


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


def _parts(prompts: Sequence[Prompt], device: torch.device) -> Iterator[range]:
    """Neighbours of like length, part by part."""
    most = PART_TOKENS.get(device.type)
    begin, longest, tokens = 0, len(prompts[0]), len(prompts[0])
    for row in range(1, len(prompts)):
        length = len(prompts[row])
        longest, tokens = max(longest, length), tokens + length
        size = longest * (row + 1 - begin)
        if most is not None and (size > most or size - tokens > FORWARD_TOKENS):
            yield range(begin, row)
            begin, longest, tokens = row, length, length
    yield range(begin, len(prompts))


def padded(prompts: Sequence[Prompt], pad: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask (batch, seq) of prompts of different length."""
    width = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        blank = [pad] * (width - len(prompt))
        seen = [1] * len(prompt)
        hidden = [0] * len(blank)
        ids.append([*blank, *prompt] if left else [*prompt, *blank])
        mask.append([*hidden, *seen] if left else [*seen, *hidden])
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
