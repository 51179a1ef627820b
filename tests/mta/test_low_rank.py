"""The tasks as one base with a LoRA each: the real peft answers as the mixture does, on every architecture."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from alter_core.errors import MTAError
from alter_core.mta import MTAConfig, MTAModel, inject
from alter_core.mta.low_rank import VLLM_RANKS, base_model, low_rank, save_adapter
from tests.mta.conftest import MODELS, batch_for, logits, plain_logits, stir, tiny

TASKS = ["a", "b", "c"]


def mixture(kind: str = "llama", soft: bool = True, **config: Any) -> MTAModel:
    mta = inject(tiny(kind), MTAConfig(**({"layers": "last_1", "rank": 2, "alpha": 8} | config)), TASKS)
    if soft:
        mta.open_gates(0.6)
    stir(mta)
    return mta


def largest_difference(mta: MTAModel, folder: Path, fill: bool = False) -> float:
    """Of any logit of any task, between the mixture and peft on what was written."""
    base: Any = base_model(mta)
    batch = batch_for(base)
    plain = plain_logits(base, batch)
    for task in mta.tasks:
        save_adapter(mta, task, folder / task, fill)
    tuned = PeftModel.from_pretrained(base, folder / mta.tasks[0], adapter_name=mta.tasks[0])
    for task in mta.tasks[1:]:
        tuned.load_adapter(folder / task, adapter_name=task)
    gaps = []
    for task in mta.tasks:
        tuned.set_adapter(task)
        wanted = logits(mta, batch, [task] * len(plain))
        assert (plain - wanted).abs().max() > 1e-2  # the adapter does something
        gaps.append(float((plain_logits(tuned, batch) - wanted).abs().max()))
    return max(gaps)


@pytest.mark.parametrize("kind", MODELS)
def test_peft_gives_the_mixtures_logits(kind: str, tmp_path: Path) -> None:
    assert largest_difference(mixture(kind), tmp_path) < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        {"soft": False},
        {"shared_adapters": 0},
        {"shared_adapter": "lora"},
        {"shared_adapter": "lora", "shared_adapters": 2, "shared_place": "beside"},
        {"soft": False, "shared_adapter": "ffn", "shared_place": "beside"},
        {"soft": False, "shared_adapters": 0, "mixing": "output"},
        {"layers": (0,)},
        {"homes": {"b": "a"}},
    ],
)
def test_every_mixture_of_low_rank_adapters_has_the_form(config: dict[str, Any], tmp_path: Path) -> None:
    assert largest_difference(mixture(**config), tmp_path) < 1e-5


def test_hard_gates_need_the_homes_rank_alone(tmp_path: Path) -> None:
    assert [low_rank(mixture(soft=soft), "b")[0] for soft in (False, True)] == [2, 6]


def test_zeros_up_to_a_rank_that_vllm_takes_change_no_answer(tmp_path: Path) -> None:
    mta = mixture()
    assert largest_difference(mta, tmp_path, fill=True) < 1e-5
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["r"] == 8 in VLLM_RANKS


def test_a_rank_beyond_vllms_is_refused_where_it_was_to_be_filled() -> None:
    with pytest.raises(MTAError, match="at most 512"):
        low_rank(mixture(rank=200), "a", fill=True)


def test_a_task_that_is_added_leaves_base_and_adapters_to_the_byte(tmp_path: Path) -> None:
    mta = mixture()

    def written(folder: Path) -> dict[str, bytes]:
        base: Any = base_model(mta)
        base.save_pretrained(folder / "base")
        for task in mta.tasks:
            save_adapter(mta, task, folder / task)
        return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}

    before = written(tmp_path / "before")
    mta.add_task("d", start="zero")
    with torch.no_grad():
        for name, parameter in mta.model.named_parameters():
            if ".tasks.1." in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    after = written(tmp_path / "after")
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"d"}
    assert largest_difference(mta, tmp_path / "peft") < 1e-5


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"mixing": "output"}, "mixing output"),
        ({"adapter": "ffn"}, "full FFN of a task"),
        ({"shared_place": "beside"}, "shared FFN beside"),
        ({"layers": "none"}, "no MTA layer"),
    ],
)
def test_what_has_no_exact_form_is_refused_with_the_reason_and_the_other_way_out(
    config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(MTAError, match=f"(?s){reason}.*--format merged"):
        base_model(mixture(**config))


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_vllm_reads_the_adapters_config(kind: str, tmp_path: Path) -> None:
    """By vllm/lora/peft_helper.py and lora_model.py: `r`, `lora_alpha` and `target_modules` are required; `bias` must
    be none, `modules_to_save` unset and `use_dora` off; `use_rslora` would change the scale; ranks and alphas by
    pattern are not read. Each tensor is base_model.model.<path>.lora_A or lora_B, and the path's last name must be one
    of the model's own linears."""
    mta = mixture(kind)
    save_adapter(mta, "a", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == 6
    assert config["bias"] == "none"
    assert config["modules_to_save"] is None
    assert not {"use_dora", "use_rslora", "rank_pattern", "alpha_pattern"} & config.keys()
    names = set(config["target_modules"])
    assert names == ({"gate_proj", "up_proj", "down_proj"} if kind == "llama" else {"fc1", "fc2"})
    for key, tensor in load_file(tmp_path / "a" / "adapter_model.safetensors").items():
        prefix, path, letter = key.partition("model.layers")[0], key.rpartition(".lora_")[0], key.split(".")[-2]
        assert prefix.startswith("base_model.model.")
        assert path.rpartition(".")[2] in names
        assert tensor.shape[0 if letter == "lora_A" else 1] == config["r"]
