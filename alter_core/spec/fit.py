"""What does not fit between the sections of a spec."""

from collections.abc import Iterable, Iterator, Sequence

from alter_core.spec.mta import MTAConfig
from alter_core.spec.section import Misfit
from alter_core.spec.stage import StageSpec


def misfits_between(
    names: Sequence[str], mta: MTAConfig | None, stages: Iterable[tuple[str, StageSpec]], warm_start: str
) -> Iterator[Misfit]:
    """What does not fit between sections. mta: None where it could not be read; such stages are left out."""
    for number, name in enumerate(names):
        if name in names[:number]:
            yield ("tasks", number, "name"), f"{name!r} is used more than once; rename all but one"
    stages = tuple(stages)
    if warm_start == "champion" and any(name == "stage_one" and stage.start is not None for name, stage in stages):
        yield ("warm_start",), "champion brings trained adapters, and stage_one > start would undo them: drop one"
    if mta is None:
        return
    for task, home in mta.homes.items():
        for strange in sorted({task, home} - set(names)):
            yield ("mta", "homes", task), f"{strange!r} is no task; tasks are {', '.join(names)}"
        if mta.homes.get(home, home) != home:
            yield (
                ("mta", "homes", task),
                f"starts on the adapter of {home}, whose own home is {mta.homes[home]}: name that",
            )
    for name, stage in stages:
        yield from (((name, key), problem) for key, problem in _stage_misfits(names, mta, stage))


def _stage_misfits(names: Sequence[str], mta: MTAConfig, stage: StageSpec) -> Iterator[tuple[str, str]]:
    """Keys of `stage` that ask of adapters what `mta` does not give, and why."""
    trains = ", ".join(stage.trains)
    if mta.layers == "none" and mta.encoder_layers in (None, "none"):
        if "backbone" not in stage.parts:
            yield "trains", f"{trains}: mta > layers: none leaves the backbone alone to train; name it, or give layers"
        return
    if stage.parts == {"shared_adapters"} and not mta.shared_adapters:
        yield "trains", f"{trains}: there are none; set mta > shared_adapters: 1"
    beside = mta.shared_adapters if mta.shared_place == "beside" else 0
    own = len({mta.homes.get(task, task) for task in names})
    weighed = {"all": own + beside, "shared": beside, "task": own}[stage.active]
    if stage.parts == {"gates"} and weighed < 2:
        yield (
            "trains",
            f"{trains}: they would weigh {weighed} adapter, and learn nothing; train adapters, or drop the stage",
        )
    if stage.start == "shared" and mta.shared_adapters != 1:
        yield "start", f"shared needs mta > shared_adapters: 1, got {mta.shared_adapters}"
    if stage.start == "pretrained" and mta.shared_place == "beneath":
        yield "start", "pretrained: under shared_place: beneath task adapters lie on the shared one; write zero"
