"""Format 1: instruction, input and `Answer:` each as ids of their own. For bundles that were taught so."""

from collections.abc import Sequence
from typing import Any

from alter_core.prompts.text import TAIL, answer_text, head_of
from alter_core.prompts.tokens import bodies, frame, ids_of
from alter_core.spec import TaskSpec


def prompts(
    tokenizer: Any, task: TaskSpec, inputs: Sequence[str], longest: int | None
) -> tuple[list[list[int]], list[int], list[bool]]:
    """Ids of each prompt, tokens of each input before it was cut, and whether it was."""
    head, tail = ids_of(tokenizer, head_of(task)), ids_of(tokenizer, TAIL)
    own = bodies(tokenizer, inputs)
    before, after = frame(tokenizer)
    limit = task.max_input_tokens
    if longest is not None:
        limit = max(0, min(limit, longest - len(before) - len(head) - len(tail) - len(after)))
    found = [before + head + body[:limit] + tail + after for body in own]
    return found, [len(body) for body in own], [len(body) > limit for body in own]


def answers(tokenizer: Any, targets: Sequence[str]) -> list[list[int]]:
    """Ids of each target, whole."""
    return bodies(tokenizer, [answer_text(text) for text in targets])
