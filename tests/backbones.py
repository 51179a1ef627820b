"""Tiny random backbones of several architectures, with tokenizers of every kind that a backbone may bring."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    f"the {c} {t} is in the {p}. answer: {c} {t} yes no 1 10 100"
    for c in ("red", "green", "blue")
    for t in ("ball", "box", "car", "hat")
    for p in ("hall", "garden", "office")
]
CORPUS += ["Choose the label that fits the text.\n\nWrite the answer.\n\nAnswer: Copy the answer from the text."]
LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'?!-_|<>/()[]#@%&*+=\"é")


def byte_level(prefix_space: bool = False, closes: bool = False, begins: bool = False) -> Any:
    """As GPT-2's; `closes` and `begins` put the end token after every text, or a token before it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<end>", "<begin>"]
    inner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    )
    if closes or begins:
        form = f"{'<begin> ' if begins else ''}$A{' <end>' if closes else ''}"
        known = [(token, inner.token_to_id(token)) for token in special]
        inner.post_processor = processors.TemplateProcessing(single=form, special_tokens=known)
    more = {"bos_token": "<begin>"} if begins else {}
    return tf.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>", **more)


def unigram(**more: Any) -> Any:
    """As T5's: blanks folded, marks for word beginnings, the end token after every text, unknown characters."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    inner.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    inner.train_from_iterator(
        CORPUS + LETTERS, trainers.UnigramTrainer(vocab_size=240, special_tokens=special, unk_token="<unk>")
    )
    end = [("</s>", inner.token_to_id("</s>"))]
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **more
    )


def sentence_piece(first_only: bool = False) -> Any:
    """As Llama's: no words before merging, bytes for unknown characters, a begin token; a mark before every text, or
    before the first part of one only."""
    inner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    scheme = "first" if first_only else "always"
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(CORPUS + LETTERS, trainers.BpeTrainer(vocab_size=560, special_tokens=special))
    inner = Tokenizer.from_str(_bytes_are_no_special_tokens(inner.to_str()))
    known = [("<s>", inner.token_to_id("<s>"))]
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=known)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def _bytes_are_no_special_tokens(text: str) -> str:
    whole = json.loads(text)
    whole["added_tokens"] = [token for token in whole["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(whole)


def word_piece() -> Any:
    """As BERT's: lower case, no accents, marks around every text, unknown characters."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner.train_from_iterator(CORPUS + LETTERS, trainers.WordPieceTrainer(vocab_size=260, special_tokens=special))
    known = [(token, inner.token_to_id(token)) for token in special]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=known)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level, a space before every text": lambda: byte_level(prefix_space=True),
    "byte level that closes": lambda: byte_level(closes=True),
    "byte level that begins": lambda: byte_level(begins=True),
    "unigram": unigram,
    "sentence piece": sentence_piece,
    "sentence piece, one mark": lambda: sentence_piece(first_only=True),
    "word piece": word_piece,
}


def llama(tokenizer: Any, **more: Any) -> Any:
    settings = {
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256},
        **{"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None},
    }
    return _random(tf.LlamaForCausalLM, tf.LlamaConfig(**(settings | more)))


def gpt2(tokenizer: Any, **more: Any) -> Any:
    settings = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return _random(tf.GPT2LMHeadModel, tf.GPT2Config(**(settings | ends | more)))


def t5(tokenizer: Any, **more: Any) -> Any:
    settings = {
        **{"vocab_size": len(tokenizer), "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2},
        **{"decoder_start_token_id": tokenizer.pad_token_id, "pad_token_id": tokenizer.pad_token_id},
        "eos_token_id": tokenizer.eos_token_id,
    }
    return _random(tf.T5ForConditionalGeneration, tf.T5Config(**(settings | more)))


def bart(tokenizer: Any, **more: Any) -> Any:
    settings = {
        **{"vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
        **{"max_position_embeddings": 256, "pad_token_id": tokenizer.pad_token_id, "forced_eos_token_id": None},
        **{"bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id},
        "decoder_start_token_id": tokenizer.eos_token_id,
    }
    return _random(tf.BartForConditionalGeneration, tf.BartConfig(**(settings | more)))


def _random(kind: Any, config: Any) -> Any:
    """A model whose biases are not zero, so that a lost one shows."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
    return model


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
