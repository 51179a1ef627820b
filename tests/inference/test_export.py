"""An exported version answers as the champion does, by the program that lies beside it, whatever the backbone's own
settings."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alter_core.errors import MTAError
from alter_core.inference import ask
from alter_core.inference.export import FACTS, Wanted, export_version
from alter_core.inference.gguf_file import write_model
from alter_core.inference.predict import Predictor
from alter_core.mta import inject, save_bundle
from alter_core.prompts import encode_prompts, prompt_text
from alter_core.spec import DomainSpec
from tests.backbones import bart, byte_level, gpt2, llama, sentence_piece, t5, unigram, word_piece

INPUTS = [f"the {colour} {thing} is in the {place}" for colour in ("red", "green") for thing in ("ball", "hat")
          for place in ("hall", "garden", "office")]  # fmt: skip
SPEC = DomainSpec.model_validate(
    {
        "name": "d",
        "backbone": {"model": "x"},
        "tasks": [
            {
                "name": "topic",
                "type": "classification",
                "source": {"path": "r"},
                "labels": ["red ball", "red box", "no"],
                "max_input_tokens": 40,
            },
            {"name": "title", "type": "generation", "source": {"path": "r"}, "max_target_tokens": 9},
        ],
        "mta": {"layers": "last_1", "adapter": "lora", "rank": 4, "mixing": "weight"},
        "stage_one": {"trains": ["adapters"], "steps": 1},
        "precision": "fp32",
    }
)
HOSTILE: dict[str, dict[str, Any]] = {
    "samples": {"do_sample": True, "temperature": 1.9, "top_k": 50},
    "penalties": {"repetition_penalty": 1.8, "no_repeat_ngram_size": 1},
    "beams": {"num_beams": 4, "length_penalty": 3.0},
    "forced": {"forced_bos_token_id": 5, "forced_eos_token_id": 6},
    "suppressed": {"suppress_tokens": list(range(40, 200)), "begin_suppress_tokens": [8]},
    "lengths": {"min_length": 40, "min_new_tokens": 6, "max_length": 3},
    "another end": {"eos_token_id": 2},
}


def bundle(folder: Path, architecture: Any, tokenizer: Any, settings: dict[str, Any], form: int | None = 2) -> Path:
    model = architecture(tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    mta = inject(model, SPEC.mta, SPEC.task_names, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in mta.model.named_parameters():
            if ".tasks." in name:
                weight.add_(torch.randn_like(weight) * 0.2)
    told = {"temperatures": {"topic": 1.7}, **({} if form is None else {"prompt_format": form})}
    save_bundle(mta, tokenizer, folder, {"spec": SPEC.model_dump(mode="json"), **told})
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks exports here, and not in a process each, which takes seconds to start."""

    def asked(program: Path, rows: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        export = ask.opened(program.parent)
        return [
            dict(zip(("answer", "probability", "cut"), export.answer(task, text), strict=True)) for task, text in rows
        ]

    monkeypatch.setattr("alter_core.inference.parity.asked_in_fresh_process", asked)


def rows(*tasks: str) -> list[tuple[str, str]]:
    return [(task, text) for task in tasks for text in INPUTS]


def facts_of(folder: Path) -> Any:
    return json.loads((folder / FACTS).read_text())


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("task", SPEC.task_names)
@pytest.mark.parametrize(
    ("architecture", "tokenizer", "settings"),
    [
        *((llama, byte_level, settings) for settings in HOSTILE),
        *((bart, byte_level, settings) for settings in HOSTILE),
        (gpt2, byte_level, "samples"),
        (t5, unigram, "beams"),
        (llama, sentence_piece, "penalties"),
        (llama, word_piece, "another end"),
        (gpt2, lambda: byte_level(prefix_space=True), "suppressed"),
    ],
)
def test_plain_generate_answers_as_the_champion(
    architecture: Any, tokenizer: Any, settings: str, task: str, tmp_path: Path
) -> None:
    held = bundle(tmp_path / "bundle", architecture, tokenizer(), HOSTILE[settings])
    parity = export_version(held, tmp_path / "out", Wanted("merged", task), rows(task))
    assert parity
    assert (parity.rows, parity.different_answers) == (len(INPUTS), 0)
    assert parity.largest_probability_difference < 1e-5
    told = facts_of(tmp_path / "out")["tasks"][task]
    assert told["example"]["as_one_text"]
    assert told["temperature"] == (1.7 if task == "topic" else 1)
    assert told["labels"] == list(SPEC.task(task).labels or ())


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("architecture", "tokenizer"), [(llama, byte_level), (gpt2, byte_level), (t5, unigram)])
def test_one_base_with_a_lora_each_answers_as_the_champion(architecture: Any, tokenizer: Any, tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", architecture, tokenizer(), HOSTILE["samples"])
    parity = export_version(held, tmp_path / "out", Wanted("peft", fill_rank=True), rows(*SPEC.task_names))
    assert parity
    assert (parity.rows, parity.different_answers) == (2 * len(INPUTS), 0)
    assert parity.largest_probability_difference < 1e-5
    told = facts_of(tmp_path / "out")
    assert {name: (task["adapter"], task["rank"]) for name, task in told["tasks"].items()} == {
        name: (f"adapters/{name}", 8) for name in SPEC.task_names
    }
    assert told["vllm_max_lora_rank"] == 8
    assert told["tasks"]["topic"]["example"]["prompt_ids"]


def test_a_fresh_process_that_has_no_factory_gives_the_manifests_numbers(tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", llama, byte_level(), HOSTILE["samples"])
    long = " and ".join(INPUTS)
    parity = export_version(held, tmp_path / "out", Wanted("peft"), [*rows("topic"), ("topic", long)])
    assert parity
    assert facts_of(tmp_path / "out")["parity"] == json.loads(json.dumps(asdict(parity)))
    assert parity.different_answers == 0
    program = (
        "import runpy, sys; sys.modules['alter_core'] = None; sys.argv[1:] = ['topic', sys.argv[1]]; "
        "runpy.run_path('ask.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, long], capture_output=True, text=True, check=True, cwd=tmp_path / "out"
    )
    (champion,) = Predictor.from_bundle(held, device="cpu").predict(["topic"], [long])
    assert champion.truncated
    assert done.stdout == f"{champion.text}  ({champion.score:.4f}, of an input that was cut)\n"


def test_an_input_is_cut_where_the_champion_cuts_it() -> None:
    tokenizer, text = byte_level(), " and ".join(INPUTS)
    export: Any = object.__new__(ask.ByTransformers)
    export.tokenizer = tokenizer
    for most in range(1, 60):
        task = SPEC.task("title").model_copy(update={"max_input_tokens": most})
        before, after = prompt_text(task, "\0").split("\0")
        told = {"before_input": before, "after_input": after, "max_input_tokens": most, "max_prompt_tokens": 90}
        ids, cut = export.prompt(told, text)
        assert ([ids], [cut]) == encode_prompts(tokenizer, task, [text], 90)


@pytest.mark.parametrize("begins", [False, True])
def test_a_special_token_that_an_input_spells_out_is_read_as_by_the_champion(begins: bool) -> None:
    export: Any = object.__new__(ask.ByTransformers)
    export.tokenizer = byte_level(begins=begins)
    before, after = prompt_text(SPEC.task("title"), "\0").split("\0")
    told = {"before_input": before, "after_input": after, "max_input_tokens": 99, "max_prompt_tokens": None}
    text = "the red <end> ball"
    assert export.prompt(told, text)[0] == encode_prompts(export.tokenizer, SPEC.task("title"), [text])[0][0]


@pytest.mark.parametrize("shape", [{"num_attention_heads": 4, "num_key_value_heads": 2}, {"tie_word_embeddings": True}])
def test_transformers_reads_the_gguf_file_of_a_base_as_the_model_that_it_was(
    shape: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = byte_level(begins=True)
    model = llama(tokenizer, bos_token_id=tokenizer.bos_token_id, **shape)
    write_model(model, tokenizer, tmp_path / "base.gguf", "base")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="base.gguf").eval()
    ids = torch.tensor([tokenizer("the red ball is in the garden")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(read(ids).logits, model(ids).logits)
    words = AutoTokenizer.from_pretrained(tmp_path, gguf_file="base.gguf")
    assert words(INPUTS)["input_ids"] == tokenizer(INPUTS)["input_ids"]


@pytest.mark.parametrize("task", [None, "topic"])
def test_llama_cpp_answers_gguf_files_as_the_champion(task: str | None, tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", llama, byte_level(), HOSTILE["samples"])
    long = " and ".join(INPUTS)
    asked = [*rows(*SPEC.task_names), ("topic", long)]
    parity = export_version(held, tmp_path / "out", Wanted("gguf", task), asked)
    assert parity
    assert (parity.rows, parity.different_answers) == (len(INPUTS) * (1 if task else 2) + 1, 0)
    assert parity.largest_probability_difference < 1e-5
    page = (tmp_path / "out" / "README.md").read_text()
    (shown,) = re.findall(r"/completion -d (.*)", page)
    export: Any = ask.opened(tmp_path / "out")
    said = export._get("/completion", **json.loads(shlex.split(shown)[0]))["content"]
    assert any(label.startswith(said.strip()) for label in SPEC.task("topic").labels or ())
    files = {file.name for file in (tmp_path / "out").rglob("*.*") if file.is_file()}
    assert {"Modelfile.topic", "topic.gbnf"} <= files
    assert ({"model.gguf"} if task else {"base.gguf", "topic.gguf", "title.gguf"}) <= files


def test_what_no_gguf_file_is_written_of_is_refused_with_each_reason_and_the_other_way(tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", gpt2, byte_level(prefix_space=True), {})
    with pytest.raises(MTAError, match=r"(?s)architecture gpt2.*splits words.*convert_hf_to_gguf"):
        export_version(held, tmp_path / "out", Wanted("gguf"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_process")
def test_a_bundle_of_the_first_format_says_so(tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", llama, byte_level(), {}, None)
    parity = export_version(held, tmp_path / "out", Wanted("merged", "title"), rows("title"))
    told = facts_of(tmp_path / "out")
    assert told["prompt_format"] == 1
    [ids], _ = encode_prompts(byte_level(), SPEC.task("title"), INPUTS[:1], None, 1)
    assert told["tasks"]["title"]["example"]["prompt_ids"] == ids
    page = (tmp_path / "out" / "README.md").read_text()
    assert "encoded apart" in page
    assert parity
    assert f"\n{parity.different_answers} answers differ" in page


@pytest.mark.parametrize("wanted", [Wanted("merged"), Wanted("peft", "nothing")])
def test_a_task_that_is_missing_or_unknown_is_told_with_those_there_are(wanted: Wanted, tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", llama, byte_level(), {})
    with pytest.raises(MTAError, match="topic, title"):
        export_version(held, tmp_path / "out", wanted)
    assert not (tmp_path / "out").exists()
