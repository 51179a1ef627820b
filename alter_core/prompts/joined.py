"""Format 2: the whole prompt as one text, so that whoever joins the parts as text gets the ids that were taught.

For an input that is not cut and spells out no special token, the prompt's ids are `tokenizer(prompt_text(...))`; behind
them come the ids that the answer has in `prompt_text + answer_text`, where the tokenizer keeps words apart.
"""

from collections.abc import Sequence
from typing import Any

from alter_core.prompts.text import TAIL, answer_text, head_of
from alter_core.prompts.tokens import bodies, frame, ids_of, specials, spelt
from alter_core.spec import TaskSpec

_CONTEXT = TAIL.strip()


def prompts(
    tokenizer: Any, task: TaskSpec, inputs: Sequence[str], longest: int | None
) -> tuple[list[list[int]], list[int], list[bool]]:
    """Ids of each prompt, tokens of each input before it was cut, and whether it was.

    The tokens of an input are those that hold one of its characters; where there can be no more than the limit, those
    that the prompt has more than one without input.
    """
    if not inputs:
        return [], [], []
    head = head_of(task)
    found: list[list[int]] = tokenizer([head + text + TAIL for text in inputs])["input_ids"]
    own = specials(tokenizer)
    empty = tokenizer(head + TAIL)["input_ids"]
    bare = sum(token in own for token in empty)
    lengths, cut = [], []
    for row, (text, ids) in enumerate(zip(inputs, found, strict=True)):
        says_special = sum(token in own for token in ids) > bare
        if not says_special and len(ids) <= min(task.max_input_tokens, longest or len(ids)):
            length, is_cut = max(0, len(ids) - len(empty)), False
        elif says_special or not tokenizer.is_fast:
            found[row], length, is_cut = _apart(tokenizer, head, text, task.max_input_tokens, longest)
        else:
            found[row], length, is_cut = _whole(tokenizer, head, text, task.max_input_tokens, longest)
        lengths.append(length)
        cut.append(is_cut)
    return found, lengths, cut


def answers(tokenizer: Any, targets: Sequence[str]) -> list[list[int]]:
    """Ids of each target, whole, as they follow the prompt's last word."""
    (before,) = bodies(tokenizer, [_CONTEXT])
    own = specials(tokenizer)
    texts = [answer_text(target) for target in targets]
    found = []
    for text, ids in zip(texts, bodies(tokenizer, [_CONTEXT + text for text in texts]), strict=True):
        after = ids[len(before) :]
        follows = ids[: len(before)] == before and not own & set(after)
        found.append(after if follows else spelt(tokenizer, text))
    return found


def _whole(tokenizer: Any, head: str, text: str, most: int, longest: int | None) -> tuple[list[int], int, bool]:
    """As `prompts`, of one input. What is too long is cut before the first token too many."""
    length, kept = None, text
    while True:
        encoded = tokenizer(head + kept + TAIL, return_offsets_mapping=True)
        ids, places = encoded["input_ids"], encoded["offset_mapping"]
        end = len(head) + len(kept)
        inside = [begin for begin, stop in places if begin < end and stop > len(head)]
        length = len(inside) if length is None else length
        limit = most if longest is None else max(0, min(most, longest - (len(ids) - len(inside))))
        if len(inside) <= limit or not kept:
            return ids, length, kept != text
        shorter = kept[: max(0, inside[limit] - len(head))].rstrip()
        kept = shorter if len(shorter) < len(kept) else kept[:-1]


def _apart(tokenizer: Any, head: str, text: str, most: int, longest: int | None) -> tuple[list[int], int, bool]:
    """As `prompts`, of one input that spells out special tokens: the instruction's stay what they are, its own are
    read as characters. Also for tokenizers that do not say which characters a token stands for."""
    before, after = frame(tokenizer)
    first, last = ids_of(tokenizer, head), spelt(tokenizer, TAIL)
    body = spelt(tokenizer, text)
    limit = most
    if longest is not None:
        limit = max(0, min(most, longest - len(before) - len(first) - len(last) - len(after)))
    if len(body) <= limit and not specials(tokenizer) & set(first):
        joined = spelt(tokenizer, head + text + TAIL)
        if longest is None or len(before) + len(joined) + len(after) <= longest:
            return before + joined + after, len(body), False
    return before + first + body[:limit] + last + after, len(body), len(body) > limit
