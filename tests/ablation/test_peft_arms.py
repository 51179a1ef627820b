from pathlib import Path

import pytest
import torch

from alter_core.ablation.arm import PeftChoice
from alter_core.ablation.peft_arms import PeftHandle
from alter_core.backbone import load_backbone, resolve_backbone
from alter_core.inference.predict import Predictor
from alter_core.spec import DomainSpec
from alter_core.workspace import Workspace
from tests.conftest import COLOURS, tiny_spec

CHOICES = [PeftChoice("lora", 2), PeftChoice("poly", 2)]


@pytest.fixture
def backbone(tiny_backbone: Path, tmp_path: Path, spec: DomainSpec) -> Path:
    return resolve_backbone(spec.backbone, Workspace(tmp_path))


@pytest.fixture
def spec(tiny_backbone: Path) -> DomainSpec:
    spec = DomainSpec.model_validate(tiny_spec(tiny_backbone))
    return spec.with_labels({"colour": COLOURS, "match": ("yes", "no")})


def disturb(handle: PeftHandle) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in handle.adapters():
            parameter.add_(torch.randn_like(parameter) * 0.5)


def logits(handle: PeftHandle, tasks: list[str]) -> torch.Tensor:
    ids = torch.arange(6).expand(len(tasks), 6)
    with torch.no_grad(), handle.routing(tasks):
        found: torch.Tensor = handle.model(input_ids=ids).logits
    return found


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: c.kind)
def test_fresh_adapters_leave_the_backbone_as_it_is(choice: PeftChoice, backbone: Path, spec: DomainSpec) -> None:
    plain, _ = load_backbone(backbone)
    with torch.no_grad():
        wanted = plain(input_ids=torch.arange(6)[None]).logits
    torch.testing.assert_close(logits(PeftHandle(backbone, spec, choice), ["colour"]), wanted)


def test_only_the_adapters_train_and_they_stand_in_the_chosen_blocks(backbone: Path, spec: DomainSpec) -> None:
    names = [name for name, _ in PeftHandle(backbone, spec, CHOICES[0]).adapters()]
    assert names
    assert all("lora_" in name and ".layers.1." in name for name in names)
    assert {name.split(".layers.1.")[1].split(".lora_")[0].split(".")[-1] for name in names} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


def test_poly_answers_each_row_under_its_own_task(backbone: Path, spec: DomainSpec) -> None:
    handle = PeftHandle(backbone, spec, CHOICES[1])
    disturb(handle)
    mixed = logits(handle, ["colour", "thing", "colour"])
    torch.testing.assert_close(mixed[0], mixed[2])
    assert not torch.allclose(mixed[0], mixed[1])
    torch.testing.assert_close(mixed[1], logits(handle, ["thing"])[0])


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: c.kind)
def test_saved_adapters_answer_as_before(choice: PeftChoice, backbone: Path, spec: DomainSpec, tmp_path: Path) -> None:
    handle = PeftHandle(backbone, spec, choice)
    disturb(handle)
    handle.save(tmp_path / "adapters.safetensors")
    again = PeftHandle(backbone, spec, choice)
    again.load(tmp_path / "adapters.safetensors")
    rows = ["colour", "thing", "match"], ["the red ball is in the hall"] * 3
    answers = [Predictor(h.model, h.tokenizer, spec, h).predict(*rows) for h in (handle, again)]
    assert answers[0] == answers[1]
