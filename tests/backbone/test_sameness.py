"""A backbone is what lies in its folder: refused, or told, where the converted one would be another."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from alter_core.backbone import RECORD, backbone_record, find_reader, load_backbone, resolve_backbone
from alter_core.backbone.tokenizer import check_tokenizer
from alter_core.errors import BackboneError
from alter_core.spec import BackboneSpec
from alter_core.workspace import Workspace
from tests.backbones import TOKENIZERS, bart, byte_level, gpt2, llama, save, t5, unigram


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def resolve(folder: Path, workspace: Workspace) -> Path:
    return resolve_backbone(BackboneSpec(model=str(folder), licence="none"), workspace)


def change(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    values = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def weights(folder: Path, changed: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    held = load_file(folder / "model.safetensors")
    changed(held)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("architecture", [llama, gpt2, t5, bart])
def test_every_weight_and_every_id_comes_back(
    architecture: Any, kind: str, workspace: Workspace, tmp_path: Path
) -> None:
    tokenizer = TOKENIZERS[kind]()
    model = architecture(tokenizer)
    read, its = load_backbone(resolve(save(tmp_path / "model", model, tokenizer), workspace))
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in model.state_dict().items())
    text = "the red ball, naïve 日本\n\nAnswer: no"
    assert its(text)["input_ids"] == tokenizer(text)["input_ids"]


def undeclared_biases(folder: Path) -> None:
    save(folder, llama(byte_level(), attention_bias=True), byte_level())
    change(folder / "config.json", attention_bias=None)


def more_blocks(folder: Path) -> None:
    save(folder, llama(byte_level(), num_hidden_layers=4), byte_level())
    change(folder / "config.json", num_hidden_layers=2)


def more_blocks_of_a_decoder(folder: Path) -> None:
    save(folder, bart(byte_level(), decoder_layers=3), byte_level())
    change(folder / "config.json", decoder_layers=2)


def gated_ffn(folder: Path) -> None:
    save(folder, t5(byte_level(), feed_forward_proj="gated-gelu"), byte_level())
    weights(folder, lambda held: held.update({n.replace("wi_0", "wi"): t.clone() for n, t in list(held.items())}))
    change(folder / "config.json", feed_forward_proj="relu", dense_act_fn="relu", is_gated_act=False)


def head_of_a_classifier(folder: Path) -> None:
    save(folder, llama(byte_level(), tie_word_embeddings=True), byte_level())
    weights(folder, lambda held: held.update({"score.weight": torch.randn(3, 32)}))


def soft_prompt(folder: Path) -> None:
    save(folder, gpt2(byte_level()), byte_level())
    weights(folder, lambda held: held.update({"prompt_encoder.embedding.weight": torch.randn(4, 32)}))


def not_a_number(folder: Path) -> None:
    save(folder, llama(byte_level()), byte_level())
    weights(folder, lambda held: held["model.norm.weight"].__setitem__(0, float("nan")))


def infinite(folder: Path) -> None:
    save(folder, gpt2(byte_level()), byte_level())
    weights(folder, lambda held: held["transformer.h.0.mlp.c_fc.weight"].__setitem__((0, 0), float("inf")))


def quantised(folder: Path) -> None:
    save(folder, llama(byte_level()), byte_level())
    change(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def weights_twice(folder: Path) -> None:
    save(folder, llama(byte_level()), byte_level())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))


def merged_beside_its_adapter(folder: Path) -> None:
    adapted = get_peft_model(llama(byte_level()), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder)
    save(folder, adapted.merge_and_unload(), byte_level())


def adapter_alone(folder: Path) -> None:
    adapted = get_peft_model(gpt2(byte_level()), LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder)


def configuration_of_an_adapter(folder: Path) -> None:
    save(folder, bart(byte_level()), byte_level())
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (undeclared_biases, r"hold 8 weights that its configuration has no place for(.|\n)*k_proj.bias"),
        (more_blocks, r"hold 18 weights(.|\n)*layers\.2"),
        (more_blocks_of_a_decoder, r"hold \d+ weights(.|\n)*decoder\.layers\.2"),
        (gated_ffn, r"hold \d+ weights(.|\n)*wi_"),
        (head_of_a_classifier, r"hold 1 weights(.|\n)*score.weight"),
        (soft_prompt, r"hold 1 weights(.|\n)*prompt_encoder"),
        (not_a_number, r"1 of its weights hold values that are no numbers(.|\n)*model.norm.weight"),
        (infinite, r"no numbers(.|\n)*c_fc.weight"),
        (quantised, "quantised"),
        (weights_twice, "weights twice"),
        (
            merged_beside_its_adapter,
            r"holds an adapter \(adapter_config.json, adapter_model.safetensors\)(.|\n)*remove",
        ),
        (adapter_alone, r"holds an adapter(.|\n)*merge_and_unload"),
        (configuration_of_an_adapter, r"holds an adapter \(adapter_config.json\)"),
    ],
)
def test_a_model_that_would_be_another_is_refused(
    made: Callable[[Path], None], says: str, workspace: Workspace, tmp_path: Path
) -> None:
    made(tmp_path / "model")
    for _ in range(2):  # nor does a second try find something half made
        with pytest.raises(BackboneError, match=says):
            resolve(tmp_path / "model", workspace)
        assert not list(workspace.backbones.glob("*"))


def with_tokens(tokens: list[Any], special: bool = False) -> Callable[[], Any]:
    def made() -> Any:
        tokenizer = byte_level()
        tokenizer.add_tokens(tokens, special_tokens=special)
        return tokenizer

    return made


def around_texts() -> Any:
    tokenizer = byte_level(closes=True)
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    inner["post_processor"]["special_tokens"]["<end>"]["ids"] = [9999]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(inner)), eos_token="<end>", pad_token="<pad>"
    )


def with_lots(**fields: Any) -> Callable[[], Any]:
    def made() -> Any:
        tokenizer = byte_level()
        for name, value in fields.items():
            setattr(tokenizer.backend_tokenizer.model, name, value)
        return tokenizer

    return made


def ending_at(token: str) -> Callable[[], Any]:
    def made() -> Any:
        return PreTrainedTokenizerFast(
            tokenizer_object=byte_level().backend_tokenizer, eos_token=token, pad_token="<pad>"
        )

    return made


def whole_words(end: str) -> Callable[[], Any]:
    def made() -> Any:
        known = {word: number for number, word in enumerate(["<pad>", "[UNK]", end, "the", "red"])}
        inner = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        inner.decoder = decoders.WordPiece()
        return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, pad_token="<pad>", unk_token="[UNK]")

    return made


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (with_tokens(["<sku>"]), r"do not reach(.|\n)*<sku> is"),
        (with_tokens([AddedToken("<a>", normalized=False), "<b>"]), r"do not reach(.|\n)*<a> is (.|\n)*<b> is"),
        (with_tokens(["<call>"], special=True), r"do not reach(.|\n)*<call> is"),
        (around_texts, r"do not reach(.|\n)*around a text \(id 9999\)"),
        (with_lots(dropout=0.1), "draws lots .BPE dropout of 0.1"),
        (with_lots(dropout=1e-6), "draws lots"),
        (lambda: unigram(sp_model_kwargs={"enable_sampling": True, "alpha": 0.1}), "draws lots .sp_model_kwargs"),
        (ending_at("."), "its end token '.' is what the text '.' gives"),
        (ending_at("Ġred"), "its end token"),
        (whole_words("stop"), "its end token 'stop' is what the text 'stop' gives"),
    ],
)
def test_a_tokenizer_that_cannot_be_learnt_with_is_refused(
    made: Callable[[], Any], says: str, workspace: Workspace, tmp_path: Path
) -> None:
    tokenizer = made()
    folder = save(tmp_path / "model", llama(tokenizer, vocab_size=len(byte_level())), tokenizer)
    with pytest.raises(BackboneError, match=says):
        resolve(folder, workspace)
    if "reach" not in says:  # which weights alone can tell
        with pytest.raises(BackboneError, match=says):
            find_reader(BackboneSpec(model=str(folder), licence=""), workspace)


@pytest.mark.parametrize(("nbest", "alpha"), [(8, 0.5), (0, 0.1)])
def test_a_tokenizer_that_samples_its_pieces_is_refused(nbest: int, alpha: float) -> None:
    tokenizer = unigram()
    tokenizer.backend_tokenizer.model.alpha = alpha  # which its file does not keep
    tokenizer.backend_tokenizer.model.nbest_size = nbest
    with pytest.raises(BackboneError, match="draws lots"):
        check_tokenizer(tokenizer, "model")


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("kind", ["one", "among others"])
def test_an_end_that_is_an_ordinary_token_is_refused(
    file: str, kind: str, workspace: Workspace, tmp_path: Path
) -> None:
    tokenizer = byte_level()
    red = tokenizer("red", add_special_tokens=False)["input_ids"][0]
    folder = save(tmp_path / "model", llama(tokenizer), tokenizer)
    change(folder / file, eos_token_id=red if kind == "one" else [tokenizer.eos_token_id, red])
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    with pytest.raises(BackboneError, match=f"ends answers at ordinary tokens(.|\n)*re is {red}"):
        resolve(folder, workspace)


def test_a_decoder_that_starts_beyond_its_embeddings_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", t5(unigram()), unigram())
    change(folder / "config.json", decoder_start_token_id=5000)
    with pytest.raises(BackboneError, match="decoder_start_token_id 5000 is none of its"):
        resolve(folder, workspace)


def test_weights_are_read_as_wide_as_they_lie_there(workspace: Workspace, tmp_path: Path) -> None:
    model = llama(byte_level())
    folder = save(tmp_path / "model", model, byte_level())
    change(folder / "config.json", dtype="float16")
    read, _ = load_backbone(resolve(folder, workspace))
    assert read.dtype == torch.float32
    assert torch.equal(read.state_dict()["model.norm.weight"], model.state_dict()["model.norm.weight"])
    assert torch.equal(read.lm_head.weight, model.lm_head.weight)


def test_what_a_reader_should_know_is_in_the_record(workspace: Workspace, tmp_path: Path) -> None:
    model = llama(byte_level())
    folder = save(tmp_path / "model", model, byte_level())
    change(folder / "config.json", tie_word_embeddings=True, auto_map={"AutoModelForCausalLM": "own.Model"})
    change(folder / "generation_config.json", do_sample=True, repetition_penalty=1.3)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    converted = resolve(folder, workspace)
    notes = "; ".join(backbone_record(converted)["notes"])
    for told in ("code of its own", "consolidated.safetensors", "repetition_penalty 1.3", "files hold two"):
        assert told in notes
    assert torch.equal(load_backbone(converted)[0].lm_head.weight, model.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_tensors_that_an_architecture_has_no_use_for_are_noted(workspace: Workspace, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", gpt2(byte_level()), byte_level())
    weights(folder, lambda held: held.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8).tril()}))
    (note,) = backbone_record(resolve(folder, workspace))["notes"]
    assert "no use for in a GPT2LMHeadModel: transformer.h.0.attn.bias" in note


def test_a_plain_backbone_has_no_notes(tiny_backbone: Path, workspace: Workspace) -> None:
    assert backbone_record(resolve(tiny_backbone, workspace))["notes"] == []


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json", RECORD])
def test_a_converted_folder_that_lost_a_file_is_made_again(
    lost: str, tiny_backbone: Path, workspace: Workspace
) -> None:
    folder = resolve(tiny_backbone, workspace)
    (folder / lost).unlink()
    assert resolve(tiny_backbone, workspace) == folder
    load_backbone(folder)
    (folder / "model.safetensors").write_bytes(b"half")
    resolve(tiny_backbone, workspace)
    load_backbone(folder)


def test_a_folder_that_reads_back_otherwise_is_not_done(
    tiny_backbone: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(AutoModelForCausalLM.from_pretrained(tiny_backbone))
    written = kind.save_pretrained

    def loses_a_bit(self: Any, folder: Path, **how: Any) -> None:
        written(self, folder, **how)
        weights(Path(folder), lambda held: held["model.norm.weight"].add_(1))

    monkeypatch.setattr(kind, "save_pretrained", loses_a_bit)
    with pytest.raises(BackboneError, match=r"1 of its weights are not what was written(.|\n)*model.norm.weight"):
        resolve(tiny_backbone, workspace)
    assert not list(workspace.backbones.glob("*"))


def test_a_digest_is_the_same_whether_the_hub_may_be_asked_or_not(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        folder = resolve(tiny_backbone, Workspace(tmp_path / str(offline)))
        digests.add(backbone_record(folder)["digest"])
    assert len(digests) == 1
