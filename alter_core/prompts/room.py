"""Whether a prompt and its answer have room in a backbone."""

from typing import Any

from alter_core.errors import SpecError
from alter_core.spec import TaskSpec


def longest_answer(task: TaskSpec) -> int:
    """Most tokens of a free answer: its text and the end token."""
    return task.effective_max_target_tokens + 1


def room(config: Any) -> int | None:
    """Most tokens, a prompt with its answer, that a backbone of `config` can read; None: it has no end to them.

    An encoder-decoder has as much for its prompt, and for its answer behind the token that begins it.
    """
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


def check_answer(config: Any, task: str, longest: int) -> None:
    """Raises SpecError when the decoder of an encoder-decoder of `config` has no room for answers of `longest` tokens,
    end token included."""
    most = room(config)
    if config.is_encoder_decoder and most is not None and longest > most:
        raise SpecError(
            f"task {task}: answers take up to {longest} tokens, and the backbone's decoder writes at most {most}: "
            f"lower the task's max_target_tokens by {longest - most} or more"
        )
