"""How a model is to be asked by transformers' own `generate()`, so that it answers as the factory does."""

from typing import Any

from transformers import GenerationConfig


def end_tokens(model: Any, tokenizer: Any | None) -> list[int]:
    """The tokenizer's end token, and those that the backbone's authors name."""
    named = getattr(model.generation_config, "eos_token_id", None)
    own = [] if tokenizer is None else [tokenizer.eos_token_id]
    every = [*own, *(named if isinstance(named, list) else [named])]
    return list(dict.fromkeys(token for token in every if token is not None))


def greedy(model: Any, tokenizer: Any | None) -> GenerationConfig:
    """Settings of greedy answers with the ends that were taught, and nothing of the backbone's own besides."""
    ends = end_tokens(model, tokenizer)
    pad = None if tokenizer is None else tokenizer.pad_token_id
    start = getattr(model.config, "decoder_start_token_id", None)
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        eos_token_id=ends or None,
        pad_token_id=pad if pad is not None else next(iter(ends), None),
        bos_token_id=getattr(model.config, "bos_token_id", None),
        **({"decoder_start_token_id": start} if start is not None else {}),
    )
