"""The arms of an ablation, made. All but the two peft arms are domain specs, and no code apart.

Every trained arm gets the domain's two-stage model's number of trained parameters, as nearly as its form allows, and
the same number of optimizer steps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alter_core.ablation.arm import Arm, Family, PeftChoice
from alter_core.ablation.shapes import Shapes
from alter_core.errors import SpecError
from alter_core.problems import lines_of
from alter_core.spec import DomainSpec, StageSpec
from alter_core.spec.mta import MTAConfig

Parts = Mapping[str, Any]
"""Parts of a spec as a person writes them; the spec's own check tells what is wrong with them."""
SOFT_KEEP = 0.5
"""Gates that are soft from the start begin half at home, half spread: near the reference code's nearly even start."""
UNTAUGHT = ("zero_shot", "bag_of_words")
"""Arms that train nothing."""
USUAL = ("zero_shot", "bag_of_words", "plain_multi_task", "mta_two_stages", "mta_stage_one", "mta_one_stage",
         "peft_lora", "single_task", "peft_poly")  # fmt: skip
"""Names that no variant may have."""
VARYING = ("mta", "stage_one", "stage_two")
"""Parts of a spec that a variant may give."""
ALONE: Parts = {"leaves": 0, "drop_adapters": 0, "best_by_task": False, "hold": 0}
"""What a stage that is the only one does not do: it has all rows, and chooses nothing by task."""


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
    Raises SpecError with what is wrong in any variant, and with every name that no arm has.
    """
    made = _variants(spec, variants or {})
    if names and set(names) <= made.keys():  # the others need their parameters counted, which takes seconds
        return tuple(arm for name, arm in made.items() if name in names)
    usual = _usual(spec, backbone, train_rows)
    found = [*(arm for arm in usual if arm.spec or arm.name in UNTAUGHT), *made.values()]
    known = [arm.name for arm in found]
    if unknown := [name for name in names or () if name not in known]:
        raise SpecError(f"no such arm: {', '.join(unknown)}; arms are {', '.join(known)}")
    return tuple(arm for arm in found if names is None or arm.name in names)


def _usual(spec: DomainSpec, backbone: Path, train_rows: int) -> list[Arm]:
    """What every domain is compared by; an arm that has no form here has no spec, as UNTAUGHT have none."""
    one = spec.stage_one
    whole = {"steps": spec.count_steps(train_rows), "epochs": None}
    shapes = Shapes(backbone, spec)
    budget = shapes.trained(spec)
    count = len(spec.tasks)

    def arm(name: str, title: str, family: Family, mta: Parts, stage: Parts) -> Arm:
        changed = MTAConfig.model_validate({**spec.mta.model_dump(), **mta})
        own = StageSpec.model_validate({**one.model_dump(), **whole, **ALONE, **stage})
        return Arm(name, title, family, spec.model_copy(update={"mta": changed, "stage_one": own, "stage_two": None}))

    single = {"adapter": "lora", "shared_adapters": 0, "shared_adapter": None, "shared_place": "beside", "homes": {}}
    single["rank"] = shapes.rank_for(budget, {**single, "rank": 1})
    plain = {"adapter": "lora", "rank": 1, "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"}
    plain |= shapes.layers_for(budget)
    linear = shapes.linear_rank()
    both = {part for stage in spec.stages.values() for part in stage.parts} - {"backbone"}
    # peft's arms stand on linears, which GPT-2's blocks have none of. Poly cannot be run again by checkpointing.
    lora_spec = arm("", "", "baseline", {}, {"start": None}).spec if linear else None
    poly_spec = arm("", "", "baseline", {}, {"start": None, "gradient_checkpointing": False}).spec if linear else None
    ranks = {"lora": budget // max(linear, 1) or 1, "poly": budget // max(linear * count, 1) or 1}
    return [
        Arm("zero_shot", "backbone, zero-shot", "baseline", None),
        Arm("bag_of_words", "bag of words or copy", "instead", None),
        arm("plain_multi_task", "plain multi-task", "baseline", plain,
            {"trains": ("shared_adapters",), "active": "shared", "gate": "hard", "start": None}),
        Arm("mta_two_stages", "MTA, two stages", "mta", spec if spec.stage_two else None),
        arm("mta_stage_one", "MTA, stage one only", "mta", {}, {"drop_adapters": one.drop_adapters}),
        arm("mta_one_stage", "MTA, one stage, soft from the start", "mta", {},
            {"trains": tuple(sorted({*both, "task_adapters", "gates"})), "active": "all", "gate": "soft",
             "keep": SOFT_KEEP}),
        Arm("peft_lora", "one shared LoRA (peft)", "baseline", lora_spec, PeftChoice("lora", ranks["lora"])),
        arm("single_task", "single-task adapters", "baseline", single,
            {"trains": ("task_adapters",), "active": "all", "gate": "hard", "start": None}),
        Arm("peft_poly", "Poly (peft)", "baseline", poly_spec, PeftChoice("poly", ranks["poly"])),
    ]  # fmt: skip


def _variants(spec: DomainSpec, variants: Mapping[str, Parts]) -> dict[str, Arm]:
    """Raises SpecError with every problem of all of them."""
    made: dict[str, Arm] = {}
    problems: list[str] = []
    for name, parts in variants.items():
        whole = spec.model_dump()
        wrong = ["an arm of this name is there already; choose another one"] if name in USUAL else []
        wrong += [f"{key} cannot vary; give {', '.join(VARYING)}" for key in parts if key not in VARYING]
        wrong += [f"{key}: {value!r} is no mapping" for key, value in parts.items() if _no_section(value)]
        if not wrong:
            for key, value in parts.items():
                whole[key] = value if value is None or whole[key] is None else {**whole[key], **value}
                if value and ("steps" in value) != ("epochs" in value):  # the length given replaces the other one
                    whole[key]["epochs" if "steps" in value else "steps"] = None
            try:
                made[name] = Arm(name, f"MTA, {name}", "mta", DomainSpec.model_validate(whole))
            except ValidationError as error:
                wrong = lines_of(error)
        problems += [f"variant {name}: {line}" for line in wrong]
    if problems:
        raise SpecError.of(problems, "variants that are no domain spec")
    return made


def _no_section(value: object) -> bool:
    return value is not None and not isinstance(value, Mapping)
