"""Predictor: answers rows of mixed tasks with a bundle, or with the plain backbone; the one way to use a model."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from alter_core.backbone import quiet
from alter_core.inference.batches import Batches
from alter_core.inference.decoding import Answer, Decoder, tempered
from alter_core.inference.plan import Plan, Planner
from alter_core.inference.prediction import Prediction
from alter_core.inference.recorded_spec import recorded_format, recorded_spec
from alter_core.inference.stream import Stream, answer_stream
from alter_core.inference.trunk import Trunk
from alter_core.memory import release_free_memory
from alter_core.mta.architectures import find_architecture, find_blocks
from alter_core.mta.bundle import load_bundle
from alter_core.mta.greedy import end_tokens
from alter_core.mta.manifest import ABSTAIN_BELOW, TEMPERATURES
from alter_core.mta.modes import evaluating
from alter_core.mta.replicas import Threads, most_replicas
from alter_core.numerics import choose_precision, dtype_of
from alter_core.prompts import PROMPT_FORMAT
from alter_core.spec import DomainSpec

CACHE_BYTES = 2**29
"""Most memory of a batch's cache of keys and values: the larger the batch, the less a written token costs."""
Progress = Callable[[int, int], None]
Key = TypeVar("Key")


class Routed(Protocol):
    """What prediction needs of a model with adapters, as MTAModel is one."""

    def routing(self, task_ids: Tensor | Sequence[str]) -> AbstractContextManager[None]:
        """Tell the adapters each row's task: names, or ids of shape (batch,)."""
        ...

    def parameters_by_part(self) -> Mapping[str, Sequence[tuple[str, nn.Parameter]]]:
        """Those under `backbone` take the precision that is computed in."""
        ...


class Predictor:
    """Greedy answers for the tasks of one domain."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        spec: DomainSpec,
        mta: Routed | None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        tokens_per_batch: int | None = None,
        prompt_format: int = PROMPT_FORMAT,
    ) -> None:
        """spec: with labels filled in. mta None: `model` is the plain backbone, which reads the same prompts.

        device: `model` is moved there when given. dtype: the backbone's parameters take it when given; adapters stay
        as they are, and are mixed in their own precision. tokens_per_batch: prompts and answers, padding counted;
        unset: as many as CACHE_BYTES hold. prompt_format: the one that `model` was taught by.
        Raises SpecError when a label task has no labels.
        """
        self.model = _placed(model, mta, device, dtype)
        self.tokenizer = tokenizer
        self.spec = spec
        self._turn = threading.Lock()
        self.mta = mta
        self.prompt_format = prompt_format
        self.temperatures: Mapping[str, float] = {}
        """Label task -> what calibrates its scores; 1 where it is not there. A bundle has them once it is registered,
        and so the bounds below which answers abstain, by task."""
        self.abstain_below: Mapping[str, float] = {}
        self._batches = Batches(tokens_per_batch or CACHE_BYTES // _cache_bytes(self.model))
        self._planner = Planner(spec, tokenizer, model.config, prompt_format, next(model.parameters()).device)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        routing = mta.routing if mta else None
        self._decoders = [Decoder(self.model, self._planner.tries, end_tokens(self.model, tokenizer), pad, routing)]

    @classmethod
    def from_bundle(
        cls, path: Path | str, backbone: Path | None = None, device: torch.device | str | None = None
    ) -> "Predictor":
        """A predictor for a saved bundle, in the precision that its spec asks for.

        backbone: a converted folder, read where the bundle only refers to one. device: unset takes a GPU if
        there is one.
        Raises BundleError when the bundle is not whole, or its spec is no longer understood.
        """
        path = Path(path)
        with quiet():
            mta, tokenizer, metadata = load_bundle(path, backbone)
        spec, prompt_format = recorded_spec(metadata, path), recorded_format(metadata, path)
        predictor = cls.placed(mta.model, tokenizer, spec, mta, device, prompt_format)
        predictor.temperatures = metadata.get(TEMPERATURES, {})
        predictor.abstain_below = metadata.get(ABSTAIN_BELOW, {})
        return predictor

    @classmethod
    def placed(
        cls,
        model: Any,
        tokenizer: Any,
        spec: DomainSpec,
        mta: Routed | None,
        device: torch.device | str | None = None,
        prompt_format: int = PROMPT_FORMAT,
    ) -> "Predictor":
        """A predictor on `device` (unset: a GPU if there is one) in the precision that the spec asks for."""
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision, _ = choose_precision(spec.precision, where)
        return cls(model.eval(), tokenizer, spec, mta, where, dtype_of(precision), prompt_format=prompt_format)

    def predict(
        self, tasks: Sequence[str], inputs: Sequence[str], progress: Progress | None = None
    ) -> list[Prediction]:
        """One prediction per row, in the caller's order. progress: called as progress(rows done, rows in all).

        Inputs are tidied as the rows were that the model has learnt from. Threads take turns: one call uses every
        core, and as much memory as CACHE_BYTES says.
        Raises TaskIdError for unknown tasks, and DataError for rows without text; every such row is named. Raises
        SpecError when a prompt is longer than the backbone can read even without its input.
        """
        answered: dict[int, Prediction] = {}
        with self._computing():
            plan = self.plan(tasks, inputs)
            for found in self.answers(plan):
                answered |= found
                if progress:
                    progress(len(answered), len(inputs))
        return [answered[row] for row in range(len(inputs))]

    def stream(self, rows: Stream[Key]) -> None:
        """Answer rows as they come, until there are none: those that come join those that are being written, and each
        is given back as soon as it is done. Threads take turns as in `predict`.
        """
        with self._computing():
            shares = self.ready(range(most_replicas(self.model)))
            threads = Threads(shares)
            try:
                threads.run([partial(self._answer_share, rows, share, shares) for share in range(shares)])
            finally:
                threads.close()

    def _answer_share(self, rows: Stream[Key], share: int, shares: int) -> None:
        answer_stream(rows, self._decoders[share], self._batches, share, shares, self._prediction)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """One call at a time."""
        with self._turn, evaluating(self.model) as trains:
            if trains:  # optimisers that write to `.data` leave no other trace
                self._decoders[1:] = []
                self._decoders[0].prefixes.forget()
            yield

    def plan(self, tasks: Sequence[str], inputs: Sequence[str]) -> Plan:
        """The rows as prompts, with what limits their answers. Raises as `predict`, of which it is the first part."""
        return self._planner.plan(tasks, inputs)

    def answers(self, plan: Plan) -> Iterator[dict[int, Prediction]]:
        """Predictions of all rows, some batches at a time: as many at once as this process has threads for."""
        batches = self.batches(plan)
        threads = Threads(self.ready(batches))
        try:
            for answered in threads.map(partial(self.answer, plan), batches):
                release_free_memory()
                yield answered
        finally:
            threads.close()

    def ready(self, batches: Sequence[object]) -> int:
        """How many of `batches` may be answered at once, each by a decoder of its own number."""
        count = max(1, min(most_replicas(self.model), len(batches)))
        while len(self._decoders) < count:
            self._decoders.append(self._decoders[0].replica())
        return count

    def blocks(self, number: int = 0) -> nn.ModuleList:
        """Blocks of the model that a decoder answers with, the predictor's own or a replica."""
        model = self._decoders[number].model
        return find_blocks(model, find_architecture(model))["decoder"]

    def answer(
        self, plan: Plan, rows: Sequence[int], number: int = 0, trunk: tuple[Trunk, nn.ModuleList] | None = None
    ) -> dict[int, Prediction]:
        """Predictions of one batch, by row. number: of a decoder. trunk: see `DecoderOnly`."""
        answers = self._decoders[number].answer([plan.requests[row] for row in rows], trunk)
        return {row: self._prediction(plan, row, answer) for row, answer in zip(rows, answers, strict=True)}

    def batches(self, plan: Plan, share: float = 1.0) -> list[list[int]]:
        """Row numbers, batch by batch, for as many at once as can be. share: of the memory that these may have."""
        return self._batches.make(plan.requests, most_replicas(self.model), share)

    def _prediction(self, plan: Plan, row: int, answer: Answer) -> Prediction:
        task = plan.tasks[row]
        temperature = self.temperatures.get(task)
        score = answer.score if temperature is None else tempered(answer.behind, temperature)
        text = self._planner.text(task, answer)
        abstains = score < self.abstain_below.get(task, 0.0)
        return Prediction(text, score, plan.truncated[row], abstains, answer.behind)


def _placed(model: Any, mta: Routed | None, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    if device is not None:
        model.to(device)
    if dtype is not None:
        # Parameters alone: rotary frequencies and the like are buffers, and lose too much in bf16.
        held = mta.parameters_by_part()["backbone"] if mta else model.named_parameters()
        for _, parameter in held:
            parameter.data = parameter.data.to(dtype)
    return model


def _cache_bytes(model: Any) -> int:
    """Bytes of a token's keys and values."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)
