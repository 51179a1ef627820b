"""Folding: exact where it can be, refused where not, approximate on request, loadable with transformers alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from alter_core.errors import MTAError
from alter_core.mta import MTALayer, MTAModel, export, fold, fold_loss, inject
from tests.mta.conftest import TASKS, VOCAB, batch_for, logits, plain_config, plain_logits, stir, tiny


def made(architecture: str = "llama", mode: Any = "soft", **settings: Any) -> MTAModel:
    mta = inject(tiny(architecture), plain_config(layers="all", rank=2, **settings), TASKS)
    stir(mta)
    mta.set_gate_mode(mode)
    return mta


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "ffn", "shared_adapters": 1},
        {"adapter": "lora", "shared_adapters": 1},
        {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"},
        {"adapter": "ffn", "shared_adapters": 1, "shared_place": "beneath"},
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "t5", "bart", "gpt2", "opt"])
def test_weight_mixing_folds_exactly(architecture: str, settings: dict[str, Any]) -> None:
    mta = made(architecture, **settings)
    batch = batch_for(mta.model)
    plain = fold(mta, "nli")
    assert not any(isinstance(m, MTALayer) for m in plain.modules())
    assert plain.state_dict().keys() == tiny(architecture).state_dict().keys()
    torch.testing.assert_close(plain_logits(plain, batch), logits(mta, batch, ["nli"] * 5), rtol=1e-4, atol=1e-4)
    assert fold_loss(mta, plain, "nli", batch)["same_top"] == 1.0


def test_a_folded_block_gets_its_dropout_back() -> None:
    model = tiny("bart")
    model.model.decoder.layers[1].activation_dropout = 0.25
    mta = inject(model, plain_config(layers="all"), TASKS)
    assert fold(mta, "nli").model.decoder.layers[1].activation_dropout == 0.25  # type: ignore[union-attr, index]


def test_a_folded_model_trains_on_alone_even_from_checkpointed_blocks() -> None:
    mta = made("opt")
    mta.model.activation_checkpointing_enable()  # type: ignore[operator]
    batch = batch_for(mta.model)
    logits(mta, batch, ["nli"] * 5)
    plain = fold(mta, "nli").train()
    plain(**batch).logits.square().sum().backward()
    assert all(p.grad is not None for p in plain.parameters() if p.requires_grad)


def test_output_mixing_folds_exactly_only_with_one_adapter() -> None:
    batch = batch_for(tiny("llama"))
    hard = made(mode="hard", mixing="output")
    torch.testing.assert_close(
        plain_logits(fold(hard, "nli"), batch), logits(hard, batch, ["nli"] * 5), rtol=1e-4, atol=1e-4
    )
    soft = made(mixing="output")
    with pytest.raises(MTAError, match="cannot be folded exactly") as caught:
        fold(soft, "nli")
    assert "decoder.1: mixing output sums the outputs of 3 adapters" in str(caught.value)
    loss = fold_loss(soft, fold(soft, "nli", approximate=True), "nli", batch)
    assert 0 < loss["mean_kl"]
    assert loss["largest_logit_change"] > 0


def test_an_unknown_task_lists_the_known() -> None:
    with pytest.raises(MTAError, match="mood") as caught:
        fold(made(), "mood")
    assert "intent, nli, title" in str(caught.value)


def test_nothing_is_exported_over_something(tmp_path: Path) -> None:
    with pytest.raises(MTAError, match="exists already"):
        export(made(), None, "nli", tmp_path)


READER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
torch.set_num_threads(1)
folder, text = sys.argv[1], sys.argv[2]
seq2seq = json.load(open(folder + "/config.json")).get("is_encoder_decoder", False)
model = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(folder).eval()
ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
more = {"decoder_input_ids": ids} if seq2seq else {}
with torch.no_grad():
    logits = model(input_ids=ids, **more).logits
answer = model.generate(ids, max_new_tokens=6, do_sample=False)
print(json.dumps({"logits": logits.tolist(), "answer": answer.tolist(), "modules": sorted(sys.modules)}))
"""


def tokenizer() -> Any:
    raw = Tokenizer(models.WordLevel(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [f"w{i}" for i in range(VOCAB - 4)]
    raw.train_from_iterator(
        [" ".join(words)], trainers.WordLevelTrainer(special_tokens=["<pad>", "<s>", "</s>", "<unk>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_a_fresh_process_with_transformers_alone_gives_the_same_answers(architecture: str, tmp_path: Path) -> None:
    mta = made(architecture, adapter="lora", shared_adapters=1, shared_adapter="ffn", shared_place="beneath")
    own = tokenizer()
    export(mta, own, "title", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    text = "w3 w8 w1 w22"
    done = subprocess.run(
        [sys.executable, "-I", "-c", READER, str(tmp_path / "out"), text], capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert not any(name.split(".")[0] == "alter_core" for name in theirs["modules"])
    ids = own(text, return_tensors="pt").input_ids
    batch = {"input_ids": ids, **({"decoder_input_ids": ids} if architecture == "t5" else {})}
    torch.testing.assert_close(torch.tensor(theirs["logits"]), logits(mta, batch, ["title"]), rtol=1e-4, atol=1e-4)
    with mta.routing(["title"]):
        ends = {"eos_token_id": own.eos_token_id}  # which an exported folder names itself
        answer = mta.model.generate(ids, max_new_tokens=6, do_sample=False, **ends)  # type: ignore[operator]
    assert theirs["answer"] == answer.tolist()
