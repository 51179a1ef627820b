"""From a row to token ids: the one place that says how a task's input and target are written for the backbone."""

from collections.abc import Sequence
from typing import Any

from alter_core.errors import SpecError
from alter_core.spec import TaskSpec

_HEAD = "{instruction}\n\n"
_TAIL = "\n\nAnswer:"


def encode_prompts(tokenizer: Any, task: TaskSpec, inputs: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
    """Token ids of `instruction, input, Answer:` for each input, and whether the input was cut.

    An input over `task.max_input_tokens` is cut at its end, so that the words that ask for the answer always stay.
    Encoder-decoder tokenizers close the prompt with their end token.
    """
    head = _ids(tokenizer, _HEAD.format(instruction=task.effective_instruction) if task.effective_instruction else "")
    tail = _ids(tokenizer, _TAIL)
    bodies = tokenizer(list(inputs), add_special_tokens=False)["input_ids"] if inputs else []
    limit = task.max_input_tokens
    before, after = _frame(tokenizer)
    prompts = [before + head + body[:limit] + tail + after for body in bodies]
    return prompts, [len(body) > limit for body in bodies]


def encode_targets(tokenizer: Any, task: TaskSpec, targets: Sequence[str]) -> list[list[int]]:
    """Token ids of each target, cut to the task's limit, and the end token."""
    limit = task.effective_max_target_tokens
    bodies = tokenizer([f" {text}" for text in targets], add_special_tokens=False)["input_ids"] if targets else []
    return [[*body[:limit], tokenizer.eos_token_id] for body in bodies]


def check_room(config: Any, task: str, longest: int) -> None:
    """Raises SpecError when a backbone of `config` cannot read `longest` tokens, a prompt with its answer."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and longest > most:
        raise SpecError(
            f"task {task}: prompt and answer take up to {longest} tokens, and the backbone reads at most {most}: "
            f"lower the task's max_input_tokens by {longest - most} or more"
        )


def decode_answers(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
    """Text of generated ids (without prompt), trimmed."""
    return [text.strip() for text in tokenizer.batch_decode(list(ids), skip_special_tokens=True)]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text; transformers 5 no longer says it directly."""
    bare = _ids(tokenizer, "x")
    whole: list[int] = tokenizer("x")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]
