"""Planner: rows of mixed tasks become what a model is asked, and what it wrote becomes text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alter_core.errors import DataError, SpecError, TaskIdError
from alter_core.inference.decoding import Answer, Request
from alter_core.inference.labels import FREE, LabelTries
from alter_core.problems import first, kind_of
from alter_core.prompts import (
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

SHOWN = 8


@dataclass(frozen=True)
class Plan:
    """Rows as the model is asked them."""

    tasks: Sequence[str]
    requests: Sequence[Request]
    truncated: Sequence[bool]


class Planner:
    """Prompts of one domain's tasks for one backbone, and what limits their answers."""

    def __init__(
        self, spec: DomainSpec, tokenizer: Any, config: Any, prompt_format: int, device: torch.device | None = None
    ) -> None:
        """config: the backbone's. device: of the tables that labels are chosen by.

        Raises SpecError when a label task has no labels, or two of its labels cannot be told apart.
        """
        self._prompt_format = prompt_format
        self._spec, self._tokenizer, self._config = spec, tokenizer, config
        self._labels = _labels(spec)
        encoded = {
            name: encode_targets(tokenizer, spec.task(name), labels, prompt_format)
            for name, labels in self._labels.items()
        }
        self.tries = LabelTries(encoded, device)
        self._longest_label = {name: max(map(len, ids)) for name, ids in encoded.items()}
        self._prefixes = {
            task.name: [] if config.is_encoder_decoder else encode_prefix(tokenizer, task, prompt_format)
            for task in spec.tasks
        }
        self._roots = {name: self.tries.roots.get(name, FREE) for name in spec.task_names}

    def plan(self, tasks: Sequence[str], inputs: Sequence[str]) -> Plan:
        """Inputs are tidied as the rows were that the model has learnt from.

        Raises TaskIdError for unknown tasks and DataError for rows without text, each with every such row; SpecError
        when a prompt is longer than the backbone can read even without its input.
        """
        self._check(tasks, inputs)
        layouts = {task.name: task.layout for task in self._spec.tasks}
        texts = [tidied(text, layouts[task]) for task, text in zip(tasks, inputs, strict=True)]
        return Plan(tasks, *self._requests(tasks, texts))

    def text(self, task: str, answer: Answer) -> str:
        """What a row of a task wrote."""
        if answer.label is not None:
            return self._labels[task][answer.label]
        return decode_answers(self._tokenizer, [answer.ids])[0]

    def _check(self, tasks: Sequence[str], inputs: Sequence[str]) -> None:
        if len(tasks) != len(inputs):
            raise TaskIdError(f"{len(tasks)} task names were given for {len(inputs)} inputs: pass one per row")
        known = set(self._roots)
        unknown = [f"row {row}: {task!r}" for row, task in enumerate(tasks) if task not in known]
        if unknown:
            names = ", ".join(self._spec.task_names)
            raise TaskIdError(
                f"{self._spec.name} has no such task; its tasks are {names}", first(unknown, SHOWN, "rows")
            )
        wrong = [f"row {row}: {problem}" for row, text in enumerate(inputs) if (problem := _problem(text))]
        if wrong:
            raise DataError("every input must be a text that is whole and not empty", first(wrong, SHOWN, "rows"))

    def _requests(self, tasks: Sequence[str], inputs: Sequence[str]) -> tuple[list[Request], list[bool]]:
        requests: dict[int, Request] = {}
        cut: dict[int, bool] = {}
        for name in dict.fromkeys(tasks):
            task = self._spec.task(name)
            rows = [row for row, given in enumerate(tasks) if given == name]
            limit = self._longest_label.get(name) or longest_answer(task)
            answer = 0 if self._config.is_encoder_decoder else limit
            most = room(self._config)
            longest = None if most is None else most - answer
            texts = [inputs[row] for row in rows]
            prompts, truncated = encode_prompts(self._tokenizer, task, texts, longest, self._prompt_format)
            prefix = self._prefixes[name]
            check_answer(self._config, name, limit)
            check_room(self._config, name, max(map(len, prompts)) + answer)
            for row, prompt, is_cut in zip(rows, prompts, truncated, strict=True):
                known = len(prefix) if prompt[: len(prefix)] == prefix and len(prompt) > len(prefix) else 0
                requests[row] = Request(name, prompt, self._roots[name], limit, known)
                cut[row] = is_cut
        return [requests[row] for row in range(len(inputs))], [cut[row] for row in range(len(inputs))]


def _problem(text: Any) -> str | None:
    """What is wrong with an input; ingestion refuses the same."""
    if not isinstance(text, str):
        return f"is {kind_of(text)}"
    if not text.strip():
        return "is empty"
    return damage(text)


def _labels(spec: DomainSpec) -> dict[str, tuple[str, ...]]:
    missing = [task.name for task in spec.tasks if task.task_type.labelled and not task.labels]
    if missing:
        raise SpecError(
            f"{spec.name}: no labels for the label tasks {', '.join(missing)}: fill them in from the dataset "
            "(`DomainSpec.with_labels`), or list them in the spec"
        )
    return {task.name: task.labels for task in spec.tasks if task.task_type.labelled and task.labels}
