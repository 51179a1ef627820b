"""Prompts and targets as ids in a format, and ids as text again."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from types import ModuleType
from typing import Any

from alter_core.prompts import apart, joined
from alter_core.spec import TaskSpec

_FORMATS: Mapping[int, ModuleType] = {1: apart, 2: joined}
PROMPT_FORMAT = max(_FORMATS)
"""What new models are taught by."""
_UNLIKE = ("a", "Z", "0", '"')


def format_of(metadata: Mapping[str, object]) -> int:
    """The format that a bundle with this metadata was taught by. Raises ValueError for one that is not known here."""
    found = metadata.get("prompt_format", 1)
    if not isinstance(found, int) or found not in _FORMATS:
        raise ValueError(f"prompt format {found}; this version knows {', '.join(map(str, _FORMATS))}")
    return found


def encode_prompts(
    tokenizer: Any,
    task: TaskSpec,
    inputs: Sequence[str],
    longest: int | None = None,
    prompt_format: int = PROMPT_FORMAT,
) -> tuple[list[list[int]], list[bool]]:
    """Token ids of `instruction, input, Answer:` for each input, and whether the input was cut.

    An input over `task.max_input_tokens`, or that makes a prompt of over `longest` tokens, is cut at its end, so that
    the words that ask for the answer always stay. The tokenizer's own tokens around a text stay around it.
    A special token that is spelt out in an input is read as the characters that it is; an instruction may hold some.
    """
    ids, _, cut = _FORMATS[prompt_format].prompts(tokenizer, task, inputs, longest)
    return ids, cut


def encode_prefix(tokenizer: Any, task: TaskSpec, prompt_format: int) -> list[int]:
    """Token ids that prompts of `task` begin with: its instruction, and what the tokenizer puts before a text.

    A tokenizer may join the last characters before an input with its first ones, so these are the ids that unlike
    inputs share. A prompt of some other input may begin otherwise: compare it.
    """
    prompts, _ = encode_prompts(tokenizer, task, _UNLIKE, None, prompt_format)
    return [column[0] for column in takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))]


def measure_prompts(tokenizer: Any, task: TaskSpec, inputs: Sequence[str]) -> list[tuple[int, int]]:
    """Tokens of each input, as `encode_prompts` holds them against the limit, and of its whole prompt, as it is cut."""
    ids, lengths, _ = _FORMATS[PROMPT_FORMAT].prompts(tokenizer, task, inputs, None)
    return [(length, len(prompt)) for length, prompt in zip(lengths, ids, strict=True)]


def encode_targets(
    tokenizer: Any, task: TaskSpec, targets: Sequence[str], prompt_format: int = PROMPT_FORMAT
) -> list[list[int]]:
    """Token ids of each target, cut to the task's limit, and the end token."""
    limit = task.effective_max_target_tokens
    bodies = _FORMATS[prompt_format].answers(tokenizer, targets)
    return [[*body[:limit], tokenizer.eos_token_id] for body in bodies]


def answer_lengths(tokenizer: Any, targets: Sequence[str]) -> list[int]:
    """Tokens of each target, as `encode_targets` holds them against the limit."""
    return [len(body) for body in _FORMATS[PROMPT_FORMAT].answers(tokenizer, targets)]


def decode_answers(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
    """Text of generated ids (without prompt), trimmed."""
    return [text.strip() for text in tokenizer.batch_decode(list(ids), skip_special_tokens=True)]
