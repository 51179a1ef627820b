"""Greedy decoding of one batch of rows, label rows under constraint, with a probability for every answer.

Why not `generate`: a label row is done as soon as one label is left, most often at its first token, and rows that are
done leave the batch together with their cache. `benchmarks/predict.py` measures what that is worth.
"""

import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from alter_core.inference.labels import FREE, LabelTries
from alter_core.inference.prefill import DecoderOnly, Reading, Routing, Seq2Seq, Trunk
from alter_core.inference.prefixes import Prefixes
from alter_core.mta.layer import MTALayer
from alter_core.mta.replicas import replica

KEPT_SHARE = 0.8
"""The batch is made smaller once no more than this share of it still writes: above it, the copy costs more than it
saves."""


Choices = tuple[tuple[float, ...], ...]
"""Of each choice on the way to a label, how far the other tokens' logits are below the chosen one's."""


@dataclass(frozen=True)
class Request:
    """One row to answer."""

    task: str
    prompt: Sequence[int]
    root: int
    """Node of the task's labels, or FREE."""
    max_new_tokens: int
    prefix: int = 0
    """How many tokens of `prompt` are what all prompts of the task begin with; one length for all of a task that have
    it."""


@dataclass(frozen=True)
class Answer:
    """What a row wrote: `label` is the number of its label, or None for free text, whose ids are `ids`."""

    ids: tuple[int, ...]
    label: int | None
    score: float
    """Label: its probability among the task's labels. Free text: geometric mean of its tokens' probabilities."""
    behind: Choices
    """Of a label."""


def tempered(behind: Choices, temperature: float) -> float:
    """A label's probability where every logit on the way to it is divided by `temperature` (Guo et al. 2017,
    arXiv 1706.04599); that of 1 is `Answer.score`."""
    return math.prod(1 / (1 + math.fsum(math.exp(lag / temperature) for lag in lags)) for lags in behind)


class Decoder:
    """Answers batches of requests with one model. What tasks' prompts begin with is kept between batches."""

    def __init__(
        self, model: Any, tries: LabelTries, ends: Collection[int], pad: int, routing: Routing | None = None
    ) -> None:
        """ends: token ids that end an answer. pad: any token id; padding is masked. routing: carries rows' tasks."""
        self.model = model
        self.tries = tries
        self.pad = pad
        self._ends = ends
        self._routing = routing
        self.routing = routing or (lambda _tasks: nullcontext())
        self.device = next(model.parameters()).device
        self.ends = torch.tensor(sorted(ends), device=self.device)
        self.finished = tries.finished(self.device)
        self.prefixes = Prefixes()

    def replica(self) -> "Decoder":
        """Another over the same weights, which may answer at the same time."""
        tensors = {tensor: tensor for tensor in chain(self.model.parameters(), self.model.buffers())}
        model, routing = replica((self.model, self._routing), tensors)
        for own, other in zip(model.modules(), self.model.modules(), strict=True):
            if isinstance(own, MTALayer):
                own.share_formed(other)
        return Decoder(model, self.tries, self._ends, self.pad, routing)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], trunk: tuple[Trunk, nn.ModuleList] | None = None) -> list[Answer]:
        """Answers in the order of `requests`, which share one batch whatever their tasks. trunk: see `DecoderOnly`."""
        count, longest = len(requests), max(request.max_new_tokens for request in requests)
        device = self.device
        written = torch.zeros(count, longest, dtype=torch.long, device=device)
        log_probability = torch.zeros(count, device=device)
        steps = torch.zeros(count, dtype=torch.long, device=device)
        node = torch.tensor([request.root for request in requests], device=device)
        limit = torch.tensor([request.max_new_tokens for request in requests], device=device)
        rows = torch.arange(count, device=device)  # the requests that the batch still holds
        done = self.finished[node]
        behind: list[list[tuple[float, ...]]] = [[] for _ in requests]
        tasks, prompts = [request.task for request in requests], [request.prompt for request in requests]
        given = self.model, tasks, prompts, self.pad, self.routing
        reading: Reading
        if self.model.config.is_encoder_decoder:
            reading = Seq2Seq(*given)
        else:
            reading = DecoderOnly(*given, self.prefixes, [request.prefix for request in requests], trunk)
        logits = reading.start(longest)  # batch, vocab
        for step in range(longest):
            here = node[rows]
            token, gained = _likeliest(logits)
            labelled = (here != FREE) & ~done[rows]
            if labelled.any():
                choice = self.tries.choose(logits[labelled], here[labelled])
                token[labelled], gained[labelled] = choice.token, choice.log_probability
                node[rows[labelled]] = choice.node
                for row, lags in zip(rows[labelled].tolist(), choice.behind, strict=True):
                    behind[row].append(lags)
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
            if step == 0 or remaining <= KEPT_SHARE * len(rows):
                kept = alive.nonzero()[:, 0]
                reading.keep(kept)
                rows, token = rows[kept], token[kept]
            logits = reading.step(token)
        mean = torch.where(node == FREE, log_probability / steps.clamp(min=1), log_probability).exp()
        nodes, lengths, scores, ids = node.tolist(), steps.tolist(), mean.tolist(), written.tolist()
        return [
            Answer(tuple(ids[i][: lengths[i]]), label, scores[i], tuple(behind[i]))
            for i, label in enumerate(None if node == FREE else self.tries.label(node) for node in nodes)
        ]


def _likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    best, token = logits.max(1)
    return token, best.float() - logits.float().logsumexp(1)
