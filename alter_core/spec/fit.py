"""What does not fit between the sections of a spec."""

from collections.abc import Iterator, Mapping, Sequence

from alter_core.spec.mta import MTAConfig
from alter_core.spec.section import SpecProblem
from alter_core.spec.stage import FREE, StageSpec


def problems_of_homes(homes: Mapping[str, str], tasks: Sequence[str]) -> Iterator[SpecProblem]:
    """What is wrong with `mta > homes`, by the names of the tasks."""
    for task, home in homes.items():
        for strange in sorted({task, home} - set(tasks)):
            yield ("homes", task), f"{strange!r} is no task; tasks are {', '.join(tasks)}"
        if homes.get(home, home) != home:
            yield ("homes", task), f"starts on the adapter of {home}, whose own home is {homes[home]}: name that"


def problems_of_stage(stage: StageSpec, mta: MTAConfig, tasks: Sequence[str] | None) -> Iterator[SpecProblem]:
    """What `stage` asks of adapters and `mta` does not give. tasks: their names; None where they are not known."""
    trains = ", ".join(stage.trains)
    if mta.layers == "none" and mta.encoder_layers in (None, "none"):
        if "backbone" not in stage.parts:
            yield (
                ("trains",),
                f"{trains}: mta > layers: none leaves the backbone alone to train; name it, give layers, or leave the "
                "stage out (stage_two: null)",
            )
        return
    if stage.gate in FREE and mta.mixing == "output":
        problem = f"{stage.gate} gates need weights that sum to anything: set mta > mixing: weight, or gate: soft"
        yield ("gate",), problem
    if stage.drop_adapters and (mta.mixing == "output" or not mta.shared_adapters):
        yield ("drop_adapters",), "needs mta > mixing: weight, and a shared adapter that learns meanwhile"
    if stage.best_by_task and "task_adapters" in stage.parts and mta.homes:
        yield ("best_by_task",), "tasks that share an adapter cannot choose it apart: drop mta > homes, or train gates"
    if stage.parts == {"shared_adapters"} and not mta.shared_adapters:
        yield ("trains",), f"{trains}: there are none; set mta > shared_adapters: 1"
    if tasks is not None and stage.parts == {"gates"}:
        beside = 0 if mta.is_beneath else mta.shared_adapters
        own = len({mta.homes.get(task, task) for task in tasks})
        weighed = {"all": own + beside, "shared": beside, "task": own}[stage.active]
        if weighed < 2 and stage.gate not in FREE:
            yield (
                ("trains",),
                f"{trains}: they would weigh {weighed} adapter, and learn nothing; train adapters, or drop the stage",
            )
    if stage.start == "shared" and mta.shared_adapters != 1:
        yield ("start",), f"shared needs mta > shared_adapters: 1, got {mta.shared_adapters}"
    if stage.start == "pretrained" and mta.is_beneath:
        yield ("start",), "pretrained: under shared_place: beneath task adapters lie on the shared one; write zero"
