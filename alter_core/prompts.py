"""From a row to token ids: the one place that says how a task's input and target are written for the backbone."""

from collections.abc import Sequence
from typing import Any

from alter_core.errors import SpecError
from alter_core.spec import TaskSpec

_HEAD = "{instruction}\n\n"
_TAIL = "\n\nAnswer:"


def encode_prompts(
    tokenizer: Any, task: TaskSpec, inputs: Sequence[str], longest: int | None = None
) -> tuple[list[list[int]], list[bool]]:
    """Token ids of `instruction, input, Answer:` for each input, and whether the input was cut.

    An input over `task.max_input_tokens`, or that makes a prompt of over `longest` tokens, is cut at its end, so that
    the words that ask for the answer always stay. Encoder-decoder tokenizers close the prompt with their end token.
    A special token that is spelt out in an input is read as the characters that it is; an instruction may hold some.
    """
    head = _ids(tokenizer, _HEAD.format(instruction=task.effective_instruction) if task.effective_instruction else "")
    tail = _ids(tokenizer, _TAIL)
    bodies = _bodies(tokenizer, inputs)
    before, after = _frame(tokenizer)
    limit = task.max_input_tokens
    if longest is not None:
        limit = max(0, min(limit, longest - len(before) - len(head) - len(tail) - len(after)))
    prompts = [before + head + body[:limit] + tail + after for body in bodies]
    return prompts, [len(body) > limit for body in bodies]


def encode_targets(tokenizer: Any, task: TaskSpec, targets: Sequence[str]) -> list[list[int]]:
    """Token ids of each target, cut to the task's limit, and the end token."""
    limit = task.effective_max_target_tokens
    bodies = _bodies(tokenizer, [f" {text}" for text in targets])
    return [[*body[:limit], tokenizer.eos_token_id] for body in bodies]


def longest_answer(task: TaskSpec) -> int:
    """Most tokens of a free answer: its text and the end token."""
    return task.effective_max_target_tokens + 1


def room(config: Any) -> int | None:
    """Most tokens, a prompt with its answer, that a backbone of `config` can read; None: it has no end to them."""
    most: int | None = getattr(config, "max_position_embeddings", None)
    return most


def check_room(config: Any, task: str, longest: int) -> None:
    """Raises SpecError when a backbone of `config` cannot read `longest` tokens, a prompt with its answer."""
    most = room(config)
    if most is not None and longest > most:
        raise SpecError(
            f"task {task}: prompt and answer take up to {longest} tokens, and the backbone reads at most {most}: "
            f"lower the task's max_input_tokens by {longest - most} or more, or shorten its instruction"
        )


def decode_answers(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
    """Text of generated ids (without prompt), trimmed."""
    return [text.strip() for text in tokenizer.batch_decode(list(ids), skip_special_tokens=True)]


def _bodies(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that anybody may have written: none of them ends a prompt, or an answer, by what it says."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _ids(tokenizer: Any, text: str) -> list[int]:
    if not text:
        return []
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    return ids


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text; transformers 5 no longer says it directly."""
    bare = _ids(tokenizer, "x")
    whole: list[int] = tokenizer("x")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]
