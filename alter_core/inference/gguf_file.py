"""GGUF files for llama.cpp and what is built on it, written by llama.cpp's package `gguf` under its names of tensors.

Only what is certain: Llama's and Qwen's plain architectures, and byte-level BPE whose way to split words llama.cpp has
a name for. All else is refused; llama.cpp's convert_hf_to_gguf.py and convert_lora_to_gguf.py, which no registry
carries, read what `--format peft` writes. Numbers stay as the base has them, vectors and adapters in fp32.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from alter_core.errors import MTAError
from alter_core.mta.greedy import end_tokens
from alter_core.mta.low_rank import LowRank
from alter_core.prompts.tokens import frame
from alter_core.whole import written_whole

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_GPT2 = {"type": "ByteLevel", "use_regex": True}
_BYTES = {"type": "ByteLevel", "use_regex": False}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT = {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2],
    "llama-bpe": [_SPLIT, _BYTES],
    "qwen2": [{**_SPLIT, "pattern": {"Regex": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")}}, _BYTES],
}
"""llama.cpp's name of a way to split a text into words -> the parts of tokenizer.json that say it."""


def check_gguf(model: Any, tokenizer: Any) -> None:
    """Raises MTAError, with every reason, where `model` cannot be written here."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    found = []
    if config.model_type not in ARCHITECTURES:
        found.append(f"architecture {config.model_type}; written are {', '.join(ARCHITECTURES)}")
    elif rope.get("rope_type", "default") != "default" or config.hidden_act != "silu":
        found.append(f"rope {rope.get('rope_type')}, activation {config.hidden_act}; written are default and silu")
    elif getattr(config, "use_sliding_window", False):
        found.append("attention in a sliding window")
    if _pre_tokenizer(tokenizer) is None:
        found.append("a tokenizer that splits words in a way that llama.cpp has no name for here")
    else:
        before, after = frame(tokenizer)
        if after or before not in ([], [tokenizer.bos_token_id]):
            found.append("a tokenizer that puts other tokens around a text than its begin token")
    if found:
        way = "llama.cpp's own convert_hf_to_gguf.py and convert_lora_to_gguf.py may read what --format peft writes"
        raise MTAError("no GGUF file is written of this backbone", [*found, way])


@torch.no_grad()
def write_model(model: Any, tokenizer: Any, file: Path, name: str) -> None:
    """Write a plain model with its tokenizer to `file`, whole or not at all. Raises MTAError as `check_gguf`."""
    check_gguf(model, tokenizer)
    config = model.config
    with written_whole(file) as path:
        writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
        writer.add_name(name)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        _add_tokenizer(writer, tokenizer, config.vocab_size, end_tokens(model, tokenizer))
        names = _names(config)
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        for key, tensor in model.state_dict().items():
            if key not in tied:
                _add_tensor(writer, names(key), _rotated(key, tensor, config))
        _close(writer)


def write_adapter(adapter: LowRank, rank: int, config: Any, file: Path, name: str) -> None:
    """Write a LoRA of a base with `config` to `file`, whole or not at all; its alpha asks for a scale of 1."""
    names = _names(config)
    with written_whole(file) as path:
        writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        writer.add_string(gguf.Keys.Adapter.LORA_TASK_NAME, name)
        for place, (a, b) in adapter.items():
            _add_tensor(writer, f"{names(f'{place}.weight')}.lora_a", a)
            _add_tensor(writer, f"{names(f'{place}.weight')}.lora_b", b)
        _close(writer)


def _names(config: Any) -> Any:
    """transformers' name of a tensor -> llama.cpp's. Raises MTAError for one that it has no name for."""
    table = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)

    def named(key: str) -> str:
        found: str | None = table.get_name(key, (".weight", ".bias"))
        if found is None:
            raise MTAError(f"llama.cpp has no name for the tensor {key} of {config.model_type}")
        return found

    return named


def _rotated(key: str, tensor: Tensor, config: Any) -> Tensor:
    """Llama's queries and keys: llama.cpp turns neighbours in a head against each other, transformers its halves."""
    place = key.split(".")[-2]
    if config.model_type != "llama" or place not in ("q_proj", "k_proj"):
        return tensor
    heads = config.num_attention_heads if place == "q_proj" else config.num_key_value_heads
    return torch.unflatten(tensor, 0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _add_tensor(writer: Any, name: str, tensor: Tensor) -> None:
    kinds = {torch.bfloat16: gguf.GGMLQuantizationType.BF16, torch.float16: gguf.GGMLQuantizationType.F16}
    kind = kinds.get(tensor.dtype, gguf.GGMLQuantizationType.F32)
    if tensor.dim() == 1:
        kind = gguf.GGMLQuantizationType.F32
    values = tensor.detach().cpu().float().contiguous().numpy()
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _add_tokenizer(writer: Any, tokenizer: Any, size: int, ends: list[int]) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens, kinds = [f"[PAD{number}]" for number in range(size)], [gguf.TokenType.UNUSED] * size
    for token, number in tokenizer.get_vocab().items():
        added = tokenizer.added_tokens_decoder.get(number)
        special = gguf.TokenType.CONTROL if added and added.special else gguf.TokenType.USER_DEFINED
        tokens[number], kinds[number] = token, special if added else gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for other in [end for end in ends if end != tokenizer.eos_token_id][:1]:
        writer.add_eot_token_id(other)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(bool(frame(tokenizer)[0]))
    writer.add_add_space_prefix(False)


def _pre_tokenizer(tokenizer: Any) -> str | None:
    """llama.cpp's name of how a byte-level BPE splits words; None where it is another kind, or splits otherwise."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    if whole["model"]["type"] != "BPE" or whole["normalizer"] not in (None, {"type": "NFC"}):
        return None
    own = whole["pre_tokenizer"] or {}
    parts = own["pretokenizers"] if own.get("type") == "Sequence" else [own]
    if any(part.get("add_prefix_space") for part in parts):
        return None
    told = [
        {key: value for key, value in part.items() if key not in ("add_prefix_space", "trim_offsets")} for part in parts
    ]
    return next((name for name, wanted in PRE_TOKENIZERS.items() if told == wanted), None)


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
