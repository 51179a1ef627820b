"""What the backbone's tokenizer makes of a task's rows, by the functions that training encodes with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alter_core.prompts import (
    answer_lengths,
    decode_answers,
    encode_targets,
    longest_answer,
    measure_prompts,
    room,
)
from alter_core.spec import TaskSpec
from alter_core.text import normalise

ENCODED_AT_ONCE = 1000
_EXACT = ("exact_match", "accuracy", "macro_f1")


@dataclass(frozen=True)
class Encoded:
    """Rows as they would be taught; a place of each list a row."""

    input_tokens: list[int]
    prompt_tokens: list[int]
    target_tokens: list[int]
    """Before they are cut."""
    read_back: list[str]
    """The target and what it is after encoding and decoding, where the two differ; else empty. Cuts aside, and for
    free text only: a label is known by its number."""
    learnable: int
    """Targets of which, cut as they are taught, something comes back that the task's first metric counts."""


def encode(tokenizer: Any, task: TaskSpec, inputs: Sequence[str], targets: Sequence[str]) -> Encoded:
    """Encode rows of one task, with no more memory than a part of them needs."""
    whole = task.model_copy(update={"max_target_tokens": 10**9})
    found = Encoded([], [], [], [], 0)
    learnable = 0
    for start in range(0, len(inputs), ENCODED_AT_ONCE):
        part, wanted = inputs[start : start + ENCODED_AT_ONCE], list(targets[start : start + ENCODED_AT_ONCE])
        for own, prompt in measure_prompts(tokenizer, task, part):
            found.input_tokens.append(own)
            found.prompt_tokens.append(prompt)
        found.target_tokens.extend(answer_lengths(tokenizer, wanted))
        if task.task_type.labelled:
            found.read_back.extend("" for _ in wanted)
            learnable += len(wanted)
            continue
        back = decode_answers(tokenizer, encode_targets(tokenizer, whole, wanted))
        pairs = zip(wanted, back, strict=True)
        found.read_back.extend("" if text == target else f"{target} -> {text}" for target, text in pairs)
        taught = decode_answers(tokenizer, encode_targets(tokenizer, task, wanted))
        learnable += sum(_counts(task, text, target) for text, target in zip(taught, wanted, strict=True))
    return Encoded(found.input_tokens, found.prompt_tokens, found.target_tokens, found.read_back, learnable)


def labels_as_one(tokenizer: Any, task: TaskSpec, labels: Sequence[str]) -> list[str]:
    """Labels whose ids are those of another one, cut as they are taught, in groups: `1 = 2 = 5`."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for label, ids in zip(labels, encode_targets(tokenizer, task, labels), strict=True):
        groups.setdefault(tuple(ids), []).append(label)
    return [" = ".join(same) for same in groups.values() if len(same) > 1]


def over_room(config: Any, tokenizer: Any, task: TaskSpec, labels: Sequence[str], prompts: Sequence[int]) -> int:
    """Tokens by which the longest prompt and answer are more than a backbone of `config` reads; 0 where all fit."""
    most = room(config)
    if most is None:
        return 0
    answer = max(map(len, encode_targets(tokenizer, task, labels))) if labels else longest_answer(task)
    prompt = max(prompts, default=0)
    longest = max(prompt, answer) if config.is_encoder_decoder else prompt + answer
    return max(0, longest - most)


def _counts(task: TaskSpec, back: str, target: str) -> bool:
    """Whether the task's first metric could give an answer that says `back` anything."""
    if task.effective_metrics[0] in _EXACT:
        return normalise(back) == normalise(target)
    return bool(set(normalise(back)) & set(normalise(target)) - {" "})
