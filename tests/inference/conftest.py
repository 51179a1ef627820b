"""Tiny real things: a tokenizer trained on the spot, random 2-layer models, a spec with label and free-text tasks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from alter_core.mta import MTAConfig, MTAModel, inject
from alter_core.spec import DomainSpec

CORPUS = [
    "Choose the label that fits the text. Answer: billing refund card declined card arrival",
    "Copy the answer from the text. Answer: my card has not come yet, where is it now?",
    "Say how the two texts relate. yes no no way the money went out twice on Monday",
]
INPUTS = [
    "my card has not come yet",
    "the money went out twice",
    "where is the refund that was promised on Monday, and why does nobody answer the text that I wrote?",
    "card",
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")


@pytest.fixture(scope="session")
def closing_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As encoder-decoder tokenizers do, it puts the end token after every text."""
    bpe = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bpe.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")


def tiny_llama(vocab: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def tiny_t5(vocab: int) -> Any:
    config = T5Config(
        vocab_size=vocab,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        initializer_factor=1.0,
        decoder_start_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def spec() -> DomainSpec:
    source = {"path": "rows.jsonl"}
    labels = ["billing", "card arrival", "card declined", "card"]
    return DomainSpec.model_validate(
        {
            "name": "desk",
            "backbone": {"model": "tiny"},
            "tasks": [
                {"name": "topic", "type": "classification", "source": source, "labels": labels, "max_input_tokens": 24},
                {"name": "fits", "type": "pair_classification", "source": source, "labels": ["yes", "no", "no way"]},
                {"name": "where", "type": "extraction", "source": source, "max_target_tokens": 6},
                {"name": "title", "type": "generation", "source": source, "max_target_tokens": 11},
            ],
            "mta": {"layers": "last_1", "adapter": "ffn", "shared_place": "beside"},
            "stage_one": {"trains": ["adapters"], "steps": 1},
            "precision": "fp32",
        }
    )


Subject = tuple[Any, Any, MTAModel | None]


@pytest.fixture(params=["llama", "llama mta", "t5 mta"])
def subject(
    request: pytest.FixtureRequest,
    tokenizer: PreTrainedTokenizerFast,
    closing_tokenizer: PreTrainedTokenizerFast,
    spec: DomainSpec,
) -> Subject:
    """Model, tokenizer and MTA handle; the adapters of every task differ."""
    return build_subject(request.param, tokenizer, closing_tokenizer, spec)


def build_subject(kind: str, tokenizer: Any, closing_tokenizer: Any, spec: DomainSpec) -> Subject:
    torch.manual_seed(0)
    make: Callable[[int], Any] = tiny_t5 if kind.startswith("t5") else tiny_llama
    own = closing_tokenizer if kind.startswith("t5") else tokenizer
    model = make(len(tokenizer))
    if not kind.endswith("mta"):
        return model, own, None
    mta = inject(model, MTAConfig.model_validate(spec.mta.model_dump()), spec.task_names)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".tasks." in name or ".shared." in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return mta.model.eval(), own, mta


@pytest.fixture
def mixed_rows(spec: DomainSpec) -> tuple[list[str], list[str]]:
    """Tasks and inputs: every task with inputs of several lengths, in an order that no batch would have."""
    pairs = [(task, text) for text in INPUTS for task in spec.task_names]
    pairs = pairs[::3] + pairs[1::3] + pairs[2::3]
    return [task for task, _ in pairs], [text for _, text in pairs]
