"""An exported task answers as the champion does, by the program in its README, whatever the backbone's settings say."""

import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from alter_core.inference.export import TASK_FILE, export_task
from alter_core.inference.predict import Predictor
from alter_core.mta import inject, save_bundle
from alter_core.prompts import encode_prompts
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
    told = {} if form is None else {"prompt_format": form}
    save_bundle(mta, tokenizer, folder, {"spec": SPEC.model_dump(mode="json"), **told})
    return folder


def program(folder: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    return found.replace('folder = "."', f"folder = {str(folder)!r}")


def answers(folder: Path) -> list[str]:
    names: dict[str, Any] = {}
    with redirect_stdout(StringIO()) as said:
        exec(program(folder), names)
    assert said.getvalue().strip() == json.loads((folder / TASK_FILE).read_text())["example"]["answer"]
    return [names["answer"](text) for text in INPUTS]


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
    export_task(held, task, tmp_path / "out", row=INPUTS[0])
    champion = Predictor.from_bundle(held, device="cpu").predict([task] * len(INPUTS), INPUTS)
    assert answers(tmp_path / "out") == [one.text for one in champion]
    facts = json.loads((tmp_path / "out" / TASK_FILE).read_text())
    assert facts["example"]["as_one_text"]
    assert facts["labels"] == list(SPEC.task(task).labels or ())


def test_the_folder_needs_transformers_alone(tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", llama, byte_level(), HOSTILE["samples"])
    export_task(held, "topic", tmp_path / "out")
    guard = "import sys; sys.modules['alter_core'] = None\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", guard + program(tmp_path / "out")],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == json.loads((tmp_path / "out" / TASK_FILE).read_text())["example"]["answer"]


def test_a_bundle_of_the_first_format_says_so(tmp_path: Path) -> None:
    held = bundle(tmp_path / "bundle", llama, byte_level(), {}, None)
    export_task(held, "title", tmp_path / "out", row=INPUTS[0])
    facts = json.loads((tmp_path / "out" / TASK_FILE).read_text())
    assert facts["prompt_format"] == 1
    [ids], _ = encode_prompts(byte_level(), SPEC.task("title"), INPUTS[:1], None, 1)
    assert facts["example"]["prompt_ids"] == ids
    assert "encoded apart" in (tmp_path / "out" / "README.md").read_text()
    (champion,) = Predictor.from_bundle(held, device="cpu").predict(["title"], INPUTS[:1])
    assert facts["example"]["answer"] == champion.text
