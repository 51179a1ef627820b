"""What the predictor must equal: one row at a time, no cache, no padding, Python loops over labels."""

from contextlib import nullcontext
from typing import Any

import torch

from alter_core.mta import MTAModel
from alter_core.prompts import encode_prompts, encode_targets
from alter_core.spec import DomainSpec


def answer(
    model: Any,
    tokenizer: Any,
    mta: MTAModel | None,
    spec: DomainSpec,
    task: str,
    text: str,
    temperature: float = 1.0,
) -> tuple[str, float]:
    """Answer and score of one row."""
    own = spec.task(task)
    prompt = encode_prompts(tokenizer, own, [text])[0][0]
    written: list[int] = []
    if not own.task_type.labelled:
        chances = []
        while len(written) <= own.effective_max_target_tokens:
            probabilities = next_token(model, mta, task, prompt, written)
            written.append(int(probabilities.argmax()))
            chances.append(float(probabilities.max()))
            if written[-1] == tokenizer.eos_token_id:
                break
        mean = torch.tensor(chances, dtype=torch.float64).log().mean().exp()
        return tokenizer.decode(written, skip_special_tokens=True).strip(), float(mean)
    left = dict(zip(own.labels or (), encode_targets(tokenizer, own, own.labels or ()), strict=True))
    chance = 1.0
    while len(left) > 1:
        probabilities = next_token(model, mta, task, prompt, written)
        allowed = sorted({ids[len(written)] for ids in left.values()})
        best = max(allowed, key=lambda token: float(probabilities[token]))
        softened = probabilities ** (1 / temperature)
        chance *= float(softened[best] / softened[allowed].sum())
        written.append(best)
        left = {label: ids for label, ids in left.items() if ids[: len(written)] == written}
    return next(iter(left)), chance


@torch.no_grad()
def next_token(model: Any, mta: MTAModel | None, task: str, prompt: list[int], written: list[int]) -> torch.Tensor:
    """Probabilities (vocab) of the token after what is written."""
    with mta.routing([task]) if mta else nullcontext():
        if model.config.is_encoder_decoder:
            start = [model.config.decoder_start_token_id, *written]
            out = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start]))
        else:
            out = model(input_ids=torch.tensor([prompt + written]))
    return out.logits[0, -1].softmax(0)
