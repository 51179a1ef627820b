"""The arms of an ablation: what is compared. All but the two peft arms are domain specs, and no code apart.

Every trained arm gets the domain's two-stage model's number of trained parameters, as nearly as its form allows, and
the same number of optimizer steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from alter_core.errors import SpecError
from alter_core.mta import MTAConfig, inject
from alter_core.mta.architectures import Side, find_architecture, find_blocks
from alter_core.mta.injection import mta_blocks
from alter_core.problems import lines_of
from alter_core.spec import DomainSpec, StageSpec

Family = Literal["mta", "baseline", "instead"]
"""instead: what a user would take instead of a model; it is told beside the best baseline, never as it."""
Parts = Mapping[str, Any]
"""Parts of a spec as a person writes them; the spec's own check tells what is wrong with them."""
SOFT_KEEP = 0.5
"""Gates that are soft from the start begin half at home, half spread: near the reference code's nearly even start."""


ALONE: Parts = {"leaves": 0, "drop_adapters": 0, "best_by_task": False, "hold": 0}
"""What a stage that is the only one does not do: it has all rows, and chooses nothing by task."""


@dataclass(frozen=True)
class PeftChoice:
    """Adapters of the library peft on every linear of the blocks that have MTA layers."""

    kind: Literal["lora", "poly"]
    rank: int


@dataclass(frozen=True)
class Arm:
    """One way to make a model for the domain."""

    name: str
    title: str
    family: Family
    spec: DomainSpec | None
    """How it trains; None: nothing trains. A peft arm trains `spec.stage_one`."""
    peft: PeftChoice | None = None

    def at(self, rate: float, seed: int) -> DomainSpec:
        """The arm's spec with stage one at `rate`; stage two's rates keep their ratio to stage one's."""
        assert self.spec is not None
        factor = rate / self.spec.stage_one.learning_rate
        stages = {str(name): _scaled(stage, factor) for name, stage in self.spec.stages.items()}
        return self.spec.model_copy(update={**stages, "seed": seed})


def make_arms(
    spec: DomainSpec,
    backbone: Path,
    train_rows: int,
    variants: Mapping[str, Parts] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Arm, ...]:
    """The arms for `spec` (`names`: of these), most telling first: an interrupted ablation leaves a useful part.

    backbone: folder of the converted backbone. train_rows: what epochs count. variants: further MTA arms, as name ->
    parts of a domain spec that replace the domain's (mta, stage_one, stage_two), each part by whole keys.
    Raises SpecError for a variant that is no spec, and with every name that no arm has.
    """
    made = {name: _variant(spec, name, parts) for name, parts in (variants or {}).items()}
    if names and set(names) <= made.keys():  # the others need their parameters counted, which takes seconds
        return tuple(arm for name, arm in made.items() if name in names)
    one = spec.stage_one
    whole = {"steps": spec.count_steps(train_rows), "epochs": None}
    shapes = _Shapes(backbone, spec)
    budget = shapes.trained(spec)
    count = len(spec.tasks)

    def arm(name: str, title: str, family: Family, mta: Parts, stage: Parts) -> Arm:
        changed = MTAConfig.model_validate({**spec.mta.model_dump(), **mta})
        own = StageSpec.model_validate({**one.model_dump(), **whole, **ALONE, **stage})
        return Arm(name, title, family, spec.model_copy(update={"mta": changed, "stage_one": own, "stage_two": None}))

    single = {"adapter": "lora", "shared_adapters": 0, "shared_adapter": None, "shared_place": "beside", "homes": {}}
    single["rank"] = shapes.rank_for(budget, {**single, "rank": 1})
    plain = {
        "adapter": "lora",
        "rank": 1,
        "shared_adapters": 1,
        "shared_adapter": "ffn",
        "shared_place": "beneath",
        **shapes.layers_for(budget),
    }
    linear = shapes.linear_rank()
    both = {part for stage in spec.stages.values() for part in stage.parts} - {"backbone"}
    # peft's arms stand on linears, which GPT-2's blocks have none of. Poly cannot be run again by checkpointing.
    lora_spec = arm("", "", "baseline", {}, {"start": None}).spec if linear else None
    poly_spec = arm("", "", "baseline", {}, {"start": None, "gradient_checkpointing": False}).spec if linear else None
    ranks = {"lora": budget // max(linear, 1) or 1, "poly": budget // max(linear * count, 1) or 1}
    arms = [
        Arm("zero_shot", "backbone, zero-shot", "baseline", None),
        Arm("bag_of_words", "bag of words or copy", "instead", None),
        arm(
            "plain_multi_task",
            "plain multi-task",
            "baseline",
            plain,
            {"trains": ("shared_adapters",), "active": "shared", "gate": "hard", "start": None},
        ),
        Arm("mta_two_stages", "MTA, two stages", "mta", spec if spec.stage_two else None),
        arm("mta_stage_one", "MTA, stage one only", "mta", {}, {"drop_adapters": one.drop_adapters}),
        arm(
            "mta_one_stage",
            "MTA, one stage, soft from the start",
            "mta",
            {},
            {
                "trains": tuple(sorted({*both, "task_adapters", "gates"})),
                "active": "all",
                "gate": "soft",
                "keep": SOFT_KEEP,
            },
        ),
        Arm("peft_lora", "one shared LoRA (peft)", "baseline", lora_spec, PeftChoice("lora", ranks["lora"])),
        arm(
            "single_task",
            "single-task adapters",
            "baseline",
            single,
            {"trains": ("task_adapters",), "active": "all", "gate": "hard", "start": None},
        ),
        Arm("peft_poly", "Poly (peft)", "baseline", poly_spec, PeftChoice("poly", ranks["poly"])),
    ]
    found = [found for found in arms if found.spec or found.name in ("zero_shot", "bag_of_words")]
    found += made.values()
    known = [arm.name for arm in found]
    if unknown := [name for name in names or () if name not in known]:
        raise SpecError(f"no such arm: {', '.join(unknown)}; arms are {', '.join(known)}")
    return tuple(arm for arm in found if names is None or arm.name in names)


def _variant(spec: DomainSpec, name: str, parts: Parts) -> Arm:
    whole = spec.model_dump()
    unknown = sorted(set(parts) - {"mta", "stage_one", "stage_two"})
    if unknown:
        raise SpecError(f"variant {name}: {', '.join(unknown)} cannot vary; give mta, stage_one, stage_two")
    for key, value in parts.items():
        whole[key] = value if value is None or whole[key] is None else {**whole[key], **value}
        if value and ("steps" in value) != ("epochs" in value):  # the length that is given replaces the other one
            whole[key]["epochs" if "steps" in value else "steps"] = None
    try:
        return Arm(name, f"MTA, {name}", "mta", DomainSpec.model_validate(whole))
    except ValidationError as error:
        raise SpecError(f"variant {name} is no domain spec", lines_of(error)) from error


def _scaled(stage: StageSpec, factor: float) -> StageSpec:
    gates = stage.gate_learning_rate
    return stage.model_copy(
        update={
            "learning_rate": stage.learning_rate * factor,
            "gate_learning_rate": gates * factor if gates else None,
        }
    )


class _Shapes:
    """Counts of parameters, on models without memory."""

    def __init__(self, backbone: Path, spec: DomainSpec) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)
        self._loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        self._config = config
        self._spec = spec
        model = self._model()
        self._blocks = find_blocks(model, find_architecture(model))

    def trained(self, spec: DomainSpec) -> int:
        """Parameters that any stage of `spec` trains."""
        mta = inject(self._model(), spec.mta, spec.task_names, fingerprint=False)
        names: dict[str, int] = {}
        for stage in spec.stages.values():
            mta.use_adapters(task=stage.active != "shared", shared=stage.active != "task")
            names |= {name: parameter.numel() for name, parameter in mta.set_trainable(stage.parts)}
        return sum(names.values())

    def rank_for(self, budget: int, config: Parts) -> int:
        """The rank of task adapters that trains about `budget` parameters; `config` has rank 1."""
        tried = MTAConfig.model_validate({**self._spec.mta.model_dump(), **config})
        mta = inject(self._model(), tried, self._spec.task_names, fingerprint=False)
        each = sum(parameter.numel() for _, parameter in mta.set_trainable({"task_adapters"}))
        return max(1, round(budget / max(each, 1)))

    def layers_for(self, budget: int) -> dict[str, str]:
        """The `layers` whose FFNs hold about `budget` parameters, from the last block down; never fewer than the
        domain's own."""
        ffn = {"layers": "last_1", "encoder_layers": "last_1", "adapter": "lora", "rank": 1, "homes": {}}
        ffn |= {"shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"}
        if "encoder" not in self._blocks:
            ffn["encoder_layers"] = None
        tried = MTAConfig.model_validate({**self._spec.mta.model_dump(), **ffn})
        mta = inject(self._model(), tried, self._spec.task_names, fingerprint=False)
        each = sum(parameter.numel() for _, parameter in mta.set_trainable({"shared_adapters"}))
        least = max(len(numbers) for numbers in self._chosen().values())
        most = min(len(blocks) for blocks in self._blocks.values())
        layers = f"last_{min(max(round(budget / each), least, 1), most)}"
        return {"layers": layers} | ({"encoder_layers": layers} if "encoder" in self._blocks else {})

    def linear_rank(self) -> int:
        """Parameters that one rank of LoRA takes on every linear of the blocks with MTA layers."""
        chosen = self._chosen()
        return sum(
            module.in_features + module.out_features
            for side, numbers in chosen.items()
            for number in numbers
            for module in self._blocks[side][number].modules()
            if isinstance(module, nn.Linear)
        )

    def _chosen(self) -> dict[Side, list[int]]:
        return mta_blocks(self._blocks, self._spec.mta)

    def _model(self) -> Any:
        with torch.device("meta"):
            return self._loader.from_config(self._config, trust_remote_code=False)
