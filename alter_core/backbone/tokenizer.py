"""Whether a tokenizer can be learnt with: the same text always gives the same ids, the model has all of them, and no
text ends an answer by what it says."""

from collections.abc import Iterator
from typing import Any

from alter_core.errors import BackboneError
from alter_core.problems import first

SHOWN = 5
ENCODED_AGAIN = 8
PROBES = (
    "The red ball is in the garden; it isn't 10.50 yet, is it?\n\nAnswer: yes",
    " two  blanks\tand\n\n\nlines\n",
    "Füße, naïve cafés, Ελληνικά, русский, 日本語, हिन्दी, العربية, 👍🏽",
    "def f(x):\n    return {'a': [x, 1e-9]}  # <tag> & </tag>",
    "internationalisation of incomprehensibilities " * 8,
)
"""Texts of several kinds: what a tokenizer does to them is compared before and after."""


def check_tokenizer(tokenizer: Any, given: str) -> None:
    """Raises BackboneError where the tokenizer has no end token, one that text can give, or draws lots."""
    if tokenizer.eos_token_id is None:
        raise BackboneError(
            f"backbone {given}: its tokenizer has no end token, which answers need; give it an eos_token and "
            "save it with the weights again, or choose another backbone"
        )
    if reason := _draws_lots(tokenizer):
        raise BackboneError(
            f"backbone {given}: its tokenizer draws lots ({reason}), so that the same text gives other ids each time; "
            "switch that off in its files (it is for training a model from scratch)"
        )
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    end: str = tokenizer.eos_token
    for text in dict.fromkeys((end, decoder.decode([end]) if decoder else end)):
        if _is_word(text) and tokenizer.eos_token_id in ids_of(tokenizer, text):
            raise BackboneError(
                f"backbone {given}: its end token {end!r} is what the text {text!r} gives, so that answers would end "
                "where they say it; give the tokenizer an end token of its own and resize the embeddings"
            )


def check_ids(model: Any, tokenizer: Any, given: str) -> list[str]:
    """Notes on tokens that end answers. Raises BackboneError where the tokenizer can give an id that the model lacks,
    or the model ends answers at an ordinary token."""
    words = model.get_input_embeddings().num_embeddings
    head = model.get_output_embeddings()
    reach = min(words, len(head.weight) if head is not None else words)
    numbers = dict(tokenizer.get_vocab())
    for probe in ("x", *PROBES):  # what stands around a text need not be in the vocabulary
        numbers |= {f"a token around a text (id {i})": i for i in tokenizer(probe)["input_ids"] if i >= reach}
    if beyond := sorted((number, token) for token, number in numbers.items() if number >= reach):
        raise BackboneError(
            f"backbone {given}: its tokenizer has tokens that its {reach} embeddings do not reach; resize "
            "them (`resize_token_embeddings`), or save it with its own tokenizer",
            first([f"{token} is {number}" for number, token in beyond], SHOWN),
        )
    config = model.config
    start = getattr(config, "decoder_start_token_id", None)
    if config.is_encoder_decoder and not (start is not None and 0 <= start < reach):
        raise BackboneError(
            f"backbone {given}: its decoder_start_token_id {start} is none of its {reach} embeddings; mend config.json"
        )
    return _ends(model, tokenizer, given)


def _ends(model: Any, tokenizer: Any, given: str) -> list[str]:
    """Notes on end tokens that the model names beside the tokenizer's own."""
    named = getattr(model.generation_config, "eos_token_id", None)
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids)
    known = {number: token for token, number in tokenizer.get_vocab().items()}
    ordinary: list[str] = []
    spelt: list[str] = []
    for end in named if isinstance(named, list) else [named]:
        if end in special or end not in known or (end in added and added[end].special):
            continue
        (spelt if end in added else ordinary).append(f"{known[end]} is {end}")
    if ordinary:
        raise BackboneError(
            f"backbone {given}: its generation_config.json ends answers at ordinary tokens, so that an answer which "
            "holds one would be cut there; take them out of eos_token_id (of config.json, where it has no such file)",
            ordinary,
        )
    return [f"answers also end at added tokens that a text may spell out: {', '.join(spelt)}"] if spelt else []


def check_same(before: Any, after: Any, given: str) -> None:
    """Raises BackboneError unless both tokenizers give the same ids for the same text."""
    texts = [*PROBES, *(token.content for token in before.added_tokens_decoder.values())]
    if before.get_vocab() != after.get_vocab() or list(_read(before, texts)) != list(_read(after, texts)):
        raise BackboneError(
            f"backbone {given}: its tokenizer gives other ids once it has been saved and read again; load it with "
            "transformers, save_pretrained it, and give the saved folder"
        )


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that anybody may have written, alone."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _read(tokenizer: Any, texts: list[str]) -> Iterator[tuple[Any, ...]]:
    for text in texts:
        plain, apart = tokenizer(text)["input_ids"], ids_of(tokenizer, text)
        yield plain, apart, tokenizer.decode(plain), tokenizer.decode(apart, skip_special_tokens=True)
    yield tokenizer.eos_token_id, tokenizer.pad_token_id


def _draws_lots(tokenizer: Any) -> str | None:
    """Why a text may give other ids the next time, or None."""
    inner = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if dropout := getattr(inner, "dropout", None):
        return f"BPE dropout of {dropout}"
    if (best := getattr(inner, "nbest_size", None)) not in (None, 0, 1):
        return f"nbest_size {best}"
    if (tokenizer.init_kwargs.get("sp_model_kwargs") or {}).get("enable_sampling"):
        return "sp_model_kwargs > enable_sampling"
    texts = list(PROBES)
    first = tokenizer(texts)["input_ids"]
    if any(tokenizer(texts)["input_ids"] != first for _ in range(ENCODED_AGAIN)):
        return "seen in texts that were encoded again"
    return None


def _is_word(token: str) -> bool:
    """Whether a token is a mark, a blank or a word of ordinary text: one with signs inside is spelt apart instead."""
    bare = token.strip("\u2581 ")  # a blank as some vocabularies write it
    return len(bare) < 2 or bare.isalnum()
