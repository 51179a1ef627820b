"""Tiny random models of every architecture, and helpers to fill adapters with something to tell apart."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from alter_core.mta import MTAConfig, MTAModel
from alter_core.mta.replicas import use_threads

VOCAB = 48
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_BART: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_LLAMA)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_LLAMA)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_LLAMA)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_LLAMA)),
    "smollm3": lambda: tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**_LLAMA)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**_LLAMA)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**_LLAMA)),
    "olmo2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**_LLAMA)),
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**_T5)),
    "mt5": lambda: tf.MT5ForConditionalGeneration(tf.MT5Config(**_T5)),  # gated, as Flan-T5 is
    "umt5": lambda: tf.UMT5ForConditionalGeneration(tf.UMT5Config(**_T5)),
    "bart": lambda: tf.BartForConditionalGeneration(tf.BartConfig(**_BART)),
    "mbart": lambda: tf.MBartForConditionalGeneration(tf.MBartConfig(**_BART)),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2)
    ),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(**{k: v for k, v in _LLAMA.items() if k not in ("num_key_value_heads", "head_dim")})
    ),
    "opt": lambda: tf.OPTForCausalLM(
        tf.OPTConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            word_embed_proj_dim=16,
            max_position_embeddings=32,
            pad_token_id=0,
        )
    ),
}
TASKS = ("intent", "nli", "title")


def tiny(architecture: str, seed: int = 1) -> Any:
    """Return a random model in eval mode, without dropout.

    Its biases are not zero, so that a lost one shows, and its weights are large enough for greedy decoding to differ
    from prompt to prompt.
    """
    torch.manual_seed(seed)
    model = MODELS[architecture]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.dim() > 1:
                parameter.normal_(std=0.25)
    for module in model.modules():
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


def plain_config(**settings: Any) -> MTAConfig:
    """Full FFNs for adapters and none that is shared, unless `settings` say so: nothing to think of beside them."""
    plain = {"adapter": "ffn", "shared_adapters": 0, "shared_adapter": None, "shared_place": "beside", "alpha": None}
    return MTAConfig(**{**plain, **settings})


def batch_for(model: Any, rows: int = 5, seed: int = 2) -> dict[str, torch.Tensor]:
    """Return keyword arguments of the forward, without padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, 6), generator=generator)
    if model.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": torch.randint(3, VOCAB, (rows, 4), generator=generator)}
    return {"input_ids": ids}


@torch.no_grad()
def stir(mta: MTAModel, seed: int = 3, scale: float = 0.3) -> None:
    """Move adapters and gates away from their start, as training would."""
    generator = torch.Generator().manual_seed(seed)
    parts = mta.parameters_by_part()
    for part in ("shared_adapters", "task_adapters", "gates"):
        for _, parameter in parts[part]:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_((0.05 if part == "gates" else scale) * noise.to(parameter.dtype))


def logits(mta: MTAModel, batch: dict[str, torch.Tensor], tasks: Any) -> torch.Tensor:
    """Return logits with gradients off, which takes the path of generation."""
    with torch.no_grad(), mta.routing(tasks):
        out: torch.Tensor = mta.model(**batch).logits
    return out


def plain_logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a model without MTA layers."""
    with torch.no_grad():
        out: torch.Tensor = model(**batch).logits
    return out


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    use_threads(1)
    torch.manual_seed(0)
