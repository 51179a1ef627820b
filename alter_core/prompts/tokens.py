"""What a tokenizer is asked: ids of a text, with its special tokens or with what they are spelt as."""

from collections.abc import Sequence
from typing import Any


def bodies(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that anybody may have written: none of them ends a prompt, or an answer, by what it says."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text of our own, special tokens read as such."""
    if not text:
        return []
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    return ids


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text; transformers 5 no longer says it directly."""
    bare = ids_of(tokenizer, "x")
    whole: list[int] = tokenizer("x")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def specials(tokenizer: Any) -> set[int]:
    """Ids that mean something of their own; not that of unknown characters, which any text may give."""
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def spelt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, without one of `specials`: tokenizers whose words hold them give them for their spelling,
    which is then read in two halves."""
    ids = bodies(tokenizer, [text])[0]
    own = specials(tokenizer)
    place = next((i for i, token in enumerate(ids) if token in own), None)
    if place is None or not tokenizer.is_fast:
        return ids
    begin, end = offsets(tokenizer, text)[place]
    middle = (begin + end + 1) // 2
    if not 0 < middle < len(text):
        return ids
    return spelt(tokenizer, text[:middle]) + spelt(tokenizer, text[middle:])


def offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Characters of `text` that each token of its `bodies` stands for."""
    places: list[tuple[int, int]] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )["offset_mapping"]
    return places
