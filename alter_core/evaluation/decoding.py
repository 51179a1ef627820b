"""Greedy decoding of one batch of rows, label rows under constraint, with a probability for every answer.

Why not `generate`: a label row is done as soon as one label is left, most often at its first token, and rows that are
done leave the batch together with their cache. `benchmarks/predict.py` measures what that is worth.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alter_core.evaluation.labels import FREE, LabelTries

KEPT_SHARE = 0.8
"""The batch is made smaller once no more than this share of it still writes: above it, the copy costs more than it
saves."""

Routing = Callable[[Sequence[str]], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Request:
    """One row to answer."""

    task: str
    prompt: Sequence[int]
    root: int
    """Node of the task's labels, or FREE."""
    max_new_tokens: int


@dataclass(frozen=True)
class Answer:
    """What a row wrote: `label` is the number of its label, or None for free text, whose ids are `ids`."""

    ids: tuple[int, ...]
    label: int | None
    score: float
    """Label: its probability among the task's labels. Free text: geometric mean of its tokens' probabilities."""


class Decoder:
    """Answers batches of requests with one model. Holds no state between batches."""

    def __init__(
        self, model: Any, tries: LabelTries, ends: Collection[int], pad: int, routing: Routing | None = None
    ) -> None:
        """ends: token ids that end an answer. pad: any token id; padding is masked. routing: carries rows' tasks."""
        self.model = model
        self.tries = tries
        self.pad = pad
        self.routing = routing or (lambda _tasks: nullcontext())
        self.device = next(model.parameters()).device
        self.ends = torch.tensor(sorted(ends), device=self.device)
        self.finished = tries.finished(self.device)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of `requests`, which share one batch whatever their tasks."""
        count, longest = len(requests), max(request.max_new_tokens for request in requests)
        device = self.device
        written = torch.zeros(count, longest, dtype=torch.long, device=device)
        log_probability = torch.zeros(count, device=device)
        steps = torch.zeros(count, dtype=torch.long, device=device)
        node = torch.tensor([request.root for request in requests], device=device)
        limit = torch.tensor([request.max_new_tokens for request in requests], device=device)
        rows = torch.arange(count, device=device)  # the requests that the batch still holds
        done = self.finished[node]
        state = _DecoderOnly(self, requests) if not self.model.config.is_encoder_decoder else _Seq2Seq(self, requests)
        token: Tensor | None = None
        for step in range(longest):
            with self.routing([requests[i].task for i in rows.tolist()]):
                logits = state.step(token)  # batch, vocab
            here = node[rows]
            token, gained = _likeliest(logits)
            labelled = (here != FREE) & ~done[rows]
            if labelled.any():
                choice = self.tries.choose(logits[labelled], here[labelled])
                token[labelled], gained[labelled] = choice.token, choice.log_probability
                node[rows[labelled]] = choice.node
            writes = ~done[rows]
            living = rows[writes]
            written[living, step] = token[writes]
            log_probability[living] += gained[writes]
            steps[living] = step + 1
            ended = torch.isin(token, self.ends) | (step + 1 >= limit[rows])
            done[rows] |= torch.where(here != FREE, self.finished[node[rows]], ended)
            alive = ~done[rows]
            remaining = int(alive.sum())
            if not remaining:
                break
            if remaining <= KEPT_SHARE * len(rows):
                kept = alive.nonzero()[:, 0]
                state.keep(kept)
                rows, token = rows[kept], token[kept]
        mean = torch.where(node == FREE, log_probability / steps.clamp(min=1), log_probability).exp()
        nodes, lengths, scores, ids = node.tolist(), steps.tolist(), mean.tolist(), written.tolist()
        return [
            Answer(tuple(ids[i][: lengths[i]]), None if nodes[i] == FREE else self.tries.label(nodes[i]), scores[i])
            for i in range(count)
        ]


def _likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    best, token = logits.max(1)
    return token, best.float() - logits.float().logsumexp(1)


class _DecoderOnly:
    """A batch in a decoder-only model: prompts padded on the left, so that all rows write at the same place."""

    def __init__(self, decoder: Decoder, requests: Sequence[Request]) -> None:
        from transformers import DynamicCache

        self.decoder = decoder
        self.cache = DynamicCache(config=decoder.model.config)
        self.ids, self.mask = _padded([r.prompt for r in requests], decoder.pad, left=True, device=decoder.device)

    def step(self, token: Tensor | None) -> Tensor:
        """Logits (batch, vocab) after `token` (batch), or after the prompts."""
        if token is not None:
            self.ids = token[:, None]
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(token), 1)], 1)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        out = self.decoder.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            **({"position_ids": positions} if self.decoder._takes_positions else {}),
            **self.decoder._last_only,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def keep(self, kept: Tensor) -> None:
        self.cache.batch_select_indices(kept)
        self.mask = self.mask[kept]


class _Seq2Seq:
    """A batch in an encoder-decoder model: the encoder runs once."""

    def __init__(self, decoder: Decoder, requests: Sequence[Request]) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self.decoder = decoder
        config = decoder.model.config
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.ids, self.mask = _padded([r.prompt for r in requests], decoder.pad, left=False, device=decoder.device)
        self.start = torch.full((len(requests),), config.decoder_start_token_id, device=decoder.device)
        self.encoded: Any = None

    def step(self, token: Tensor | None) -> Tensor:
        """Logits (batch, vocab) after `token` (batch), or after the start token."""
        model = self.decoder.model
        if self.encoded is None:
            self.encoded = model.get_encoder()(input_ids=self.ids, attention_mask=self.mask)
        out = model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=(self.start if token is None else token)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def keep(self, kept: Tensor) -> None:
        self.cache.batch_select_indices(kept)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[kept]
        self.mask = self.mask[kept]


def _padded(prompts: Sequence[Sequence[int]], pad: int, *, left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
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
