"""Predictor: answers rows of mixed tasks with a bundle, or with the plain backbone; the one way to use a model."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from alter_core.backbone import quiet
from alter_core.errors import DataError, SpecError, TaskIdError
from alter_core.inference.decoding import Answer, Choices, Decoder, Request, Writing, tempered
from alter_core.inference.labels import FREE, LabelTries
from alter_core.inference.prefill import Trunk
from alter_core.inference.recorded_spec import recorded_format, recorded_spec
from alter_core.memory import release_free_memory
from alter_core.mta.architectures import find_architecture, find_blocks
from alter_core.mta.bundle import load_bundle
from alter_core.mta.greedy import end_tokens
from alter_core.mta.manifest import ABSTAIN_BELOW, TEMPERATURES
from alter_core.mta.modes import evaluating
from alter_core.mta.replicas import Threads, most_replicas
from alter_core.numerics import choose_precision, dtype_of
from alter_core.problems import first, kind_of
from alter_core.prompts import (
    PROMPT_FORMAT,
    check_answer,
    check_room,
    decode_answers,
    encode_prefix,
    encode_prompts,
    encode_targets,
    longest_answer,
    room,
)
from alter_core.spec import DomainSpec
from alter_core.text import damage, tidied

CACHE_BYTES = 2**29
"""Most memory of a batch's cache of keys and values: the larger the batch, the less a written token costs."""
ROWS_PER_BATCH = 512
"""Most rows of a batch, each of which has a row of logits as long as the vocabulary."""
SHOWN = 8

JOIN_STEPS = 16
"""Tokens that rows write before others may join them where fewer than half have left since the last time: each row that
joins has the others wait while its prompt is read."""
MOST_HELD_UP = 3
"""How often a row waits so for others at most: the longest answers are not to wait for all that come meanwhile."""

Progress = Callable[[int, int], None]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Prediction:
    """The answer to one row."""

    text: str
    score: float
    """Label task: the probability of the label among the task's labels, at the task's temperature. Free text:
    geometric mean of the probabilities of its tokens."""
    truncated: bool
    """The input was over the task's max_input_tokens, and its end was not read."""
    abstain: bool = False
    """The score is below the task's bound."""
    behind: Choices = ()
    """Of a label: what its score at any temperature is made of (`decoding.tempered`)."""

    def to_json(self) -> dict[str, object]:
        """As answers are given and logged."""
        told = {"prediction": self.text, "score": float(self.score)}
        return told | {"truncated": self.truncated, "abstain": self.abstain}


@dataclass(frozen=True)
class Plan:
    """Rows as the model is asked them."""

    tasks: Sequence[str]
    requests: Sequence[Request]
    truncated: Sequence[bool]


@dataclass(frozen=True, eq=False)
class Asked(Generic[Key]):
    """A row of a stream."""

    key: Key
    """What its caller knows it by."""
    plan: Plan
    row: int
    """Of the plan."""

    @property
    def request(self) -> Request:
        """As the model is asked it."""
        return self.plan.requests[self.row]


class Stream(Protocol[Key]):
    """Rows that come and go while others are answered. Called by several threads at once."""

    def take(self, share: int, shares: int, writes: int) -> Sequence[Asked[Key]] | None:
        """Rows to answer next. share: of so many `shares` of this process's threads, which writes so many rows already;
        where that is none, this may wait, and None ends the share.
        """
        ...

    def give(self, key: Key, answer: Prediction) -> None:
        """A row is answered."""
        ...

    def fail(self, keys: Sequence[Key], error: Exception) -> None:
        """Rows that were computed together are not answered."""
        ...


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
        self.tokens_per_batch = tokens_per_batch or CACHE_BYTES // _cache_bytes(self.model)
        self._labels = _labels(spec)
        encoded = {
            name: encode_targets(tokenizer, spec.task(name), labels, prompt_format)
            for name, labels in self._labels.items()
        }
        tries = LabelTries(encoded, next(model.parameters()).device)
        self._longest_label = {name: max(map(len, ids)) for name, ids in encoded.items()}
        self._prefixes = {
            task.name: [] if model.config.is_encoder_decoder else encode_prefix(tokenizer, task, prompt_format)
            for task in spec.tasks
        }
        self._roots = {name: tries.roots.get(name, FREE) for name in spec.task_names}
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        routing = mta.routing if mta else None
        self._decoders = [Decoder(self.model, tries, end_tokens(self.model, tokenizer), pad, routing)]

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
                threads.run([partial(self._answer_stream, rows, share, shares) for share in range(shares)])
            finally:
                threads.close()

    def _answer_stream(self, rows: Stream[Key], share: int, shares: int) -> None:
        writing: Writing[Asked[Key]] = self._decoders[share].begin()
        waiting: list[Asked[Key]] = []
        joined = steps = 0  # rows that wrote after the last join, and tokens since
        while True:
            is_due = len(writing) <= max(1, joined // 2) or steps >= JOIN_STEPS
            has_room = writing.may_join and is_due and writing.held_up < MOST_HELD_UP
            if not waiting and (not len(writing) or has_room):
                taken = rows.take(share, shares, len(writing))
                if taken is None:
                    return
                waiting += taken
            if joins := self._fitting(waiting, writing, shares):
                steps, joined = 0, len(writing) + len(joins)
            try:
                ended = writing.join([(row, row.request) for row in joins]) if joins else []
                if len(writing):
                    ended += writing.step()
            except Exception as error:
                rows.fail([row.key for row in dict.fromkeys([*joins, *writing.keys])], error)
                writing = self._decoders[share].begin()
                continue
            steps += 1
            for row, answer in ended:
                rows.give(row.key, self._predictions(row.plan, [row.row], [answer])[row.row])
            release_free_memory()

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
        self._check(tasks, inputs)
        layouts = {task.name: task.layout for task in self.spec.tasks}
        texts = [tidied(text, layouts[task]) for task, text in zip(tasks, inputs, strict=True)]
        return Plan(tasks, *self._requests(tasks, texts))

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
        return self._predictions(plan, rows, self._decoders[number].answer([plan.requests[row] for row in rows], trunk))

    def _predictions(self, plan: Plan, rows: Sequence[int], answers: Sequence[Answer]) -> dict[int, Prediction]:
        texts = self._texts(plan.tasks, rows, answers)
        found = {}
        for row, text, answer in zip(rows, texts, answers, strict=True):
            temperature, bound = self.temperatures.get(plan.tasks[row]), self.abstain_below.get(plan.tasks[row], 0.0)
            score = answer.score if temperature is None else tempered(answer.behind, temperature)
            found[row] = Prediction(text, score, plan.truncated[row], score < bound, answer.behind)
        return found

    def _check(self, tasks: Sequence[str], inputs: Sequence[str]) -> None:
        if len(tasks) != len(inputs):
            raise TaskIdError(f"{len(tasks)} task names were given for {len(inputs)} inputs: pass one per row")
        known = set(self._roots)
        unknown = [f"row {row}: {task!r}" for row, task in enumerate(tasks) if task not in known]
        if unknown:
            names = ", ".join(self.spec.task_names)
            raise TaskIdError(
                f"{self.spec.name} has no such task; its tasks are {names}", first(unknown, SHOWN, "rows")
            )
        wrong = [f"row {row}: {problem}" for row, text in enumerate(inputs) if (problem := _problem(text))]
        if wrong:
            raise DataError("every input must be a text that is whole and not empty", first(wrong, SHOWN, "rows"))

    def _requests(self, tasks: Sequence[str], inputs: Sequence[str]) -> tuple[list[Request], list[bool]]:
        requests: dict[int, Request] = {}
        cut: dict[int, bool] = {}
        for name in dict.fromkeys(tasks):
            task = self.spec.task(name)
            rows = [row for row, given in enumerate(tasks) if given == name]
            limit = self._longest_label.get(name) or longest_answer(task)
            answer = 0 if self.model.config.is_encoder_decoder else limit
            most = room(self.model.config)
            longest = None if most is None else most - answer
            texts = [inputs[row] for row in rows]
            prompts, truncated = encode_prompts(self.tokenizer, task, texts, longest, self.prompt_format)
            prefix = self._prefixes[name]
            check_answer(self.model.config, name, limit)
            check_room(self.model.config, name, max(map(len, prompts)) + answer)
            for row, prompt, is_cut in zip(rows, prompts, truncated, strict=True):
                known = len(prefix) if prompt[: len(prefix)] == prefix and len(prompt) > len(prefix) else 0
                requests[row] = Request(name, prompt, self._roots[name], limit, known)
                cut[row] = is_cut
        return [requests[row] for row in range(len(inputs))], [cut[row] for row in range(len(inputs))]

    def batches(self, plan: Plan, share: float = 1.0) -> list[list[int]]:
        """Row numbers, batch by batch: rows that write alike lie together, in a batch those with as much to read.

        Long answers come first, so that the time that is left is over- rather than underestimated. There are as many as
        can be answered at once, where there are rows for it. share: of the tokens that such batches may have together.
        """
        count = most_replicas(self.model)
        found = list(self._batches(plan, share / count))
        while len(found) < count and len(longest := max(found, key=len, default=[])) > 1:
            at = found.index(longest)
            found[at : at + 1] = [longest[: len(longest) // 2], longest[len(longest) // 2 :]]
        return found

    def _fitting(self, waiting: list[Asked[Key]], writing: Writing[Asked[Key]], shares: int) -> list[Asked[Key]]:
        """Take those of `waiting`, like rows together, that there is memory for beside those that write; one at least
        where none does."""
        held = [row.request for row in writing.keys]
        if held and not writing.may_join:
            return []
        longest, count = max(map(_length, held), default=0), 0
        for row in waiting:
            longest = max(longest, _length(row.request))
            rows = len(held) + count
            if rows and (longest * (rows + 1) > self.tokens_per_batch // shares or rows == ROWS_PER_BATCH):
                break
            count += 1
        joins, waiting[:count] = waiting[:count], []
        return sorted(joins, key=lambda row: _rest(row.request))

    def _batches(self, plan: Plan, share: float) -> Iterator[list[int]]:
        requests = plan.requests

        def rest(row: int) -> tuple[int, str]:
            return _rest(requests[row])

        def likeness(row: int) -> tuple[bool, int, str, int]:
            request = requests[row]
            return request.root != FREE, -request.max_new_tokens, request.task, -len(request.prompt)

        batch: list[int] = []
        prompt = answer = 0  # the longest of the batch, in tokens
        for row in sorted(range(len(requests)), key=likeness):
            request = requests[row]
            prompt, answer = max(prompt, len(request.prompt)), max(answer, _room(request))
            full = (prompt + answer) * (len(batch) + 1) > share * self.tokens_per_batch or len(batch) == ROWS_PER_BATCH
            if batch and full:
                yield sorted(batch, key=rest)
                batch, prompt, answer = [], len(request.prompt), _room(request)
            batch.append(row)
        if batch:
            yield sorted(batch, key=rest)

    def _texts(self, tasks: Sequence[str], rows: Sequence[int], answers: Sequence[Answer]) -> list[str]:
        free = decode_answers(self.tokenizer, [answer.ids for answer in answers])
        return [
            text if answer.label is None else self._labels[tasks[row]][answer.label]
            for row, text, answer in zip(rows, free, answers, strict=True)
        ]


def _problem(text: Any) -> str | None:
    """What is wrong with an input; ingestion refuses the same."""
    if not isinstance(text, str):
        return f"is {kind_of(text)}"
    if not text.strip():
        return "is empty"
    return damage(text)


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


def _room(request: Request) -> int:
    return request.max_new_tokens if request.root == FREE else 1


def _length(request: Request) -> int:
    return len(request.prompt) + _room(request)


def _rest(request: Request) -> tuple[int, str]:
    """By which rows lie together that have as much to read."""
    return request.prefix - len(request.prompt), request.task


def _labels(spec: DomainSpec) -> dict[str, tuple[str, ...]]:
    missing = [task.name for task in spec.tasks if task.task_type.labelled and not task.labels]
    if missing:
        raise SpecError(
            f"{spec.name}: no labels for the label tasks {', '.join(missing)}: fill them in from the dataset "
            "(`DomainSpec.with_labels`), or list them in the spec"
        )
    return {task.name: task.labels for task in spec.tasks if task.task_type.labelled and task.labels}
