"""Greedy decoding of one batch of rows, label rows under constraint, with a probability for every answer.

Why not `generate`: a label row is done as soon as one label is left, most often at its first token, and rows that are
done leave the batch together with their cache. `benchmarks/predict.py` measures what that is worth.
"""

import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from alter_core.inference.decoder_only import DecoderOnly
from alter_core.inference.labels import FREE, LabelTries
from alter_core.inference.prefixes import Prefixes
from alter_core.inference.reading import Reading, Routing
from alter_core.inference.seq2seq import Seq2Seq
from alter_core.inference.trunk import Trunk
from alter_core.mta.layer import MTALayer
from alter_core.mta.replicas import replica

Key = TypeVar("Key")
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
        self._routing = routing
        self.routing = routing or (lambda _tasks: nullcontext())
        self.ends = frozenset(ends)
        self.prefixes = Prefixes()

    def replica(self) -> "Decoder":
        """Another over the same weights, which may answer at the same time."""
        tensors = {tensor: tensor for tensor in chain(self.model.parameters(), self.model.buffers())}
        model, routing = replica((self.model, self._routing), tensors)
        for own, other in zip(model.modules(), self.model.modules(), strict=True):
            if isinstance(own, MTALayer):
                own.share_formed(other)
        return Decoder(model, self.tries, self.ends, self.pad, routing)

    def begin(self) -> "Writing[Any]":
        """A batch without rows, which may join."""
        return Writing(self)

    def answer(self, requests: Sequence[Request], trunk: tuple[Trunk, nn.ModuleList] | None = None) -> list[Answer]:
        """Answers in the order of `requests`, which share one batch whatever their tasks. trunk: see `DecoderOnly`."""
        writing = self.begin()
        found = dict(writing.join(list(enumerate(requests)), trunk))
        while len(writing):
            found |= dict(writing.step())
        return [found[place] for place in range(len(requests))]

    def reading(self, requests: Sequence[Request], trunk: tuple[Trunk, nn.ModuleList] | None) -> Reading:
        """The prompts of `requests`, of which nothing is read yet."""
        tasks, prompts = [request.task for request in requests], [request.prompt for request in requests]
        given = self.model, tasks, prompts, self.pad, self.routing
        if self.model.config.is_encoder_decoder:
            return Seq2Seq(*given)
        return DecoderOnly(*given, self.prefixes, [request.prefix for request in requests], trunk)


@dataclass(slots=True)
class _Row(Generic[Key]):
    """One row that is being written."""

    key: Key
    request: Request
    node: int
    done: bool
    ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    behind: list[tuple[float, ...]] = field(default_factory=list)
    held_up: int = 0
    """How often it has waited while prompts of others were read."""

    def answer(self, tries: LabelTries) -> Answer:
        if self.node == FREE:
            mean = self.log_probability / max(1, len(self.ids))
            return Answer(tuple(self.ids), None, math.exp(mean), ())
        return Answer(tuple(self.ids), tries.label(self.node), math.exp(self.log_probability), tuple(self.behind))


class Writing(Generic[Key]):
    """Rows that a model writes together, token by token. Each leaves when it is done, and others may join meanwhile:
    a step costs what reading the weights costs, however many rows share it.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rows: list[_Row[Key]] = []  # as the batch holds them: those that are done until it is made smaller
        self._reading: Reading | None = None
        self._token = torch.zeros(0)

    def __len__(self) -> int:
        """How many rows are not done."""
        return sum(not row.done for row in self._rows)

    @property
    def keys(self) -> list[Key]:
        """Of the rows that are not done."""
        return [row.key for row in self._rows if not row.done]

    @property
    def held_up(self) -> int:
        """Of the row that writes longest, how often it has waited while prompts of others were read."""
        return max((row.held_up for row in self._rows if not row.done), default=0)

    @property
    def may_join(self) -> bool:
        """Whether rows may join those that are being written."""
        return self._reading is None or self._reading.may_join

    @torch.inference_mode()
    def join(
        self, rows: Sequence[tuple[Key, Request]], trunk: tuple[Trunk, nn.ModuleList] | None = None
    ) -> list[tuple[Key, Answer]]:
        """Read the prompts of `rows` and write their first tokens; gives those that are done with that.

        Like rows should lie together; where others are being written, only if `may_join`. trunk: see `DecoderOnly`.
        """
        decoder = self._decoder
        for row in self._rows:
            row.held_up += 1
        added = [_Row(key, one, one.root, decoder.tries.label(one.root) >= 0) for key, one in rows]
        reading = decoder.reading([one for _, one in rows], trunk)
        logits = reading.start(max(one.max_new_tokens for _, one in rows))  # row, vocab
        token, ended = self._written(added, logits, [row for row in added if row.done])
        if self._reading is None:
            self._reading, self._rows, self._token = reading, added, token
        else:
            assert isinstance(self._reading, DecoderOnly)  # as `may_join` said
            assert isinstance(reading, DecoderOnly)
            self._reading.absorb(reading)
            self._rows, self._token = [*self._rows, *added], torch.cat([self._token, token])
        self._shrink(1.0)
        return ended

    @torch.inference_mode()
    def step(self) -> list[tuple[Key, Answer]]:
        """Write one more token of each row; gives those that are done with it."""
        assert self._reading is not None
        self._token, ended = self._written(self._rows, self._reading.step(self._token))
        self._shrink(KEPT_SHARE)
        return ended

    def _written(
        self, rows: Sequence[_Row[Key]], logits: Tensor, ended: Sequence[_Row[Key]] = ()
    ) -> tuple[Tensor, list[tuple[Key, Answer]]]:
        """Take each row's likeliest token of `logits` (row, vocab); gives the tokens, and the answers that end.

        ended: rows whose answers were known before.
        """
        decoder, ends = self._decoder, [*ended]
        token, gained = _likeliest(logits)
        labelled = [place for place, row in enumerate(rows) if row.node != FREE and not row.done]
        if labelled:
            places, nodes = torch.tensor([labelled, [rows[place].node for place in labelled]], device=logits.device)
            choice = decoder.tries.choose(logits[places], nodes)
            token[places], gained[places] = choice.token, choice.log_probability
            for place, at, lags in zip(labelled, choice.node.tolist(), choice.behind, strict=True):
                rows[place].node = at
                rows[place].behind.append(lags)
        for row, written, log_probability in zip(rows, token.tolist(), gained.tolist(), strict=True):
            if row.done:
                continue
            row.ids.append(written)
            row.log_probability += log_probability
            if row.node == FREE:
                row.done = written in decoder.ends or len(row.ids) >= row.request.max_new_tokens
            else:
                row.done = decoder.tries.label(row.node) >= 0
            if row.done:
                ends.append(row)
        return token, [(row.key, row.answer(decoder.tries)) for row in ends]

    def _shrink(self, share: float) -> None:
        """Go on with the rows that are not done, where they are no more than `share` of the batch."""
        kept = [place for place, row in enumerate(self._rows) if not row.done]
        if not kept:
            self._reading, self._rows = None, []
        elif self._reading is not None and len(kept) <= share * len(self._rows):
            chosen = torch.tensor(kept, device=self._token.device)
            self._reading.keep(chosen)
            self._rows, self._token = [self._rows[place] for place in kept], self._token[chosen]


def _likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    best, token = logits.max(1)
    return token, best.float() - logits.float().logsumexp(1)
