"""The training loop against one that is written out: row by row, no trunk cache, no shared lines, no parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alter_core.backbone import load_backbone
from alter_core.data.dataset import TaskDataset
from alter_core.data.ingest import ingest
from alter_core.errors import Diverged
from alter_core.mta import inject, load_bundle
from alter_core.spec.load import load_domain
from alter_core.training.encoded import encode_rows
from alter_core.training.order import TrainingJob
from alter_core.training.sampling import SamplingPlan
from alter_core.training.stages import enter_stage, rate_at
from tests.conftest import tiny_spec, write_domain
from tests.training.conftest import Domain

STEPS = 5


@pytest.fixture(scope="module")
def uneven(domain: Domain, tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of a domain with a task of few rows, so that the sampling temperature matters."""
    folder, values = tmp_path_factory.mktemp("uneven"), tiny_spec(tiny_backbone)
    values["tasks"][2]["source"]["limit"] = 30
    return ingest(load_domain(write_domain(folder, values)), folder, domain.workspace).path


def plainly(job: TrainingJob) -> tuple[dict[str, Tensor], list[float]]:
    """All weights after stage one, and each step's loss."""
    spec, stage = job.spec, job.spec.stage_one
    torch.manual_seed(job.seed)
    model, tokenizer = load_backbone(job.backbone)
    mta = inject(model, spec.mta, spec.task_names)
    trained, _ = enter_stage(mta, stage, job.seed)
    rows = encode_rows(TaskDataset.open(job.dataset), "train", spec, tokenizer)
    plan = SamplingPlan.make(rows.task_ids, STEPS, stage.rows_per_step, stage.sampling_temperature, job.seed)
    gate = {"peak": stage.gate_learning_rate, "weight_decay": 0.0}
    other = {"peak": stage.learning_rate, "weight_decay": stage.weight_decay}
    optimizer = torch.optim.AdamW([{"params": [p], **(gate if ".gate." in name else other)} for name, p in trained])
    losses = []
    for step in range(STEPS):
        loss = torch.zeros(())
        for row in plan.rows(step):
            ids = torch.from_numpy(np.concatenate((rows.prompts[row], rows.targets[row]))).long()
            answer = len(rows.targets[row])
            with mta.routing(torch.tensor([rows.task_ids[row]])):
                logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, -answer:]
            loss = loss + F.cross_entropy(logits, ids[-answer:]) / stage.rows_per_step
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for _, p in trained], stage.clip)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_at(stage, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return dict(model.named_parameters()), losses


@pytest.mark.parametrize(
    "stage",
    [
        {"trains": ["adapters"], "active": "all"},
        {"trains": ["adapters", "gates"], "active": "all", "gate": "soft", "keep": 0.6, "gate_learning_rate": 0.05},
    ],
    ids=["hard", "soft"],
)
def test_some_steps_end_as_those_of_a_plain_loop(
    stage: dict[str, Any], domain: Domain, uneven: Path, train: Callable[..., Any], tmp_path: Path
) -> None:
    # AdamW looks past the scale of gradients, but for its eps: so low a clip shows beside that.
    common = {"steps": STEPS, "learning_rate": 1e-2, "weight_decay": 0.5, "clip": 1e-6}
    common |= {"warmup": 0.4, "schedule": "linear", "sampling_temperature": 4.0}
    job = domain.job(tmp_path, dataset=uneven, stage_one={**common, **stage})
    _, told = train(job)
    weights, losses = plainly(job)
    steps = [row for row in told if row["phase"] == "train"]
    assert [row["loss"] for row in steps] == pytest.approx(losses, rel=1e-4)
    rates = [1e-2 * rate_at(job.spec.stage_one, step, STEPS) for step in range(STEPS)]
    assert [row["lr"] for row in steps] == pytest.approx(rates)
    mta, _, _ = load_bundle(tmp_path / "bundle", domain.backbone)
    torch.testing.assert_close(dict(mta.model.named_parameters()), weights, rtol=0, atol=1e-4)


def test_a_last_step_after_which_nothing_is_a_number_is_told(domain: Domain, train: Any, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="weights are no numbers after step 1"):
        train(domain.job(tmp_path, steps=1, learning_rate=1e38, warmup=0))
    assert not (tmp_path / "bundle").exists()
