"""An ablation's table in words: ablation.md, and what other pages of ablations share with it."""

from collections.abc import Iterable, Sequence

from alter_core.ablation.table import ArmRow, Settings, Table, best_of, complete
from alter_core.ablation.trials import SPLITS
from alter_core.evaluation.metrics import Interval


def to_markdown(table: Table) -> str:
    """The table, and one sentence on what it shows."""
    tasks = list(table.metrics)
    head = ["arm", "macro", "against the best baseline", *tasks, "seeds", "rate", "trained parameters", "seconds"]
    lines = [f"# Ablation of {table.domain}", "", settings_line(table.settings, table.arms), ""]
    lines += table_lines(head, [_cells(arm, tasks) for arm in table.arms])
    metrics = ", ".join(f"{task}: {metric}" for task, metric in table.metrics.items())
    seeds = [len(arm.seeds) for arm in table.arms if arm.rate is not None]
    several = max(seeds, default=1) > 1
    luck = "seeds and rows" if several else "rows; how seeds differ is not in them"
    if several and 1 in seeds:
        luck += "; of arms with one seed, over rows alone"
    lines += ["", f"Scores are means over seeds on the same test rows ({metrics}); intervals are 95 %, over {luck}."]
    computed = sorted({precision for arm in table.arms for precision in arm.precision})
    lines += [f"Trials computed in {' and '.join(computed)}."] if computed else []
    lines += [
        f"{arm.title} diverged at seed {', '.join(map(str, arm.diverged))}."
        + ("" if arm in complete(table.arms) else " Its other seeds are not compared.")
        for arm in table.arms
        if arm.diverged
    ]
    lines += ["Seconds are those of one training's steps.", *_loss_lines(table), "", reading(table)]
    lines += ["", ahead] if (ahead := ahead_instead(table)) else []
    return "\n".join(lines) + "\n"


def _cells(arm: ArmRow, tasks: Sequence[str]) -> list[str]:
    value = arm.macro
    rate = "" if arm.rate is None else f"{arm.rate:g}" + (" (edge)" if arm.rate_at_edge else "")
    return [
        arm.title,
        f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})",
        signed(arm.difference) if arm.difference else "",
        *[f"{arm.tasks[task].value:.3f}" for task in tasks if task in arm.tasks],
        str(len(arm.seeds)),
        rate,
        f"{arm.trained_parameters:,}",
        f"{arm.seconds:.0f}",
    ]


def _loss_lines(table: Table) -> list[str]:
    """The losses as a table of their own."""
    titles = {arm.name: arm.title for arm in table.arms}
    held = [(arm.title, arm.losses) for arm in table.arms if arm.losses]
    others = list(dict.fromkeys(other for _, losses in held for other in losses.against))
    if not held:
        return []
    head = ["arm", *(f"loss, {s} rows" for s in SPLITS), *(f"against {titles[o]}, {s}" for o in others for s in SPLITS)]
    rows = []
    for title, losses in held:
        cells = [losses.against.get(other, {}).get(split) for other in others for split in SPLITS]
        means = [f"{losses.mean[split]:.4f}" for split in SPLITS]
        rows.append([title, *means, *(signed(cell, 4) if cell else "" for cell in cells)])
    about = (
        "Losses are nats a row (the mean over its target's tokens), means of tasks; less is better. Differences are "
        "paired by row and seed: they tell arms apart where scores cannot, and scores decide."
    )
    return ["", *table_lines(head, rows), "", about]


def ahead_instead(table: Table) -> str:
    """On which tasks the best MTA arm trails what a user would take instead; empty where one of them is not there."""
    ours, instead = best_of(complete(table.arms), "mta"), best_of(table.arms, "instead")
    if not ours or not instead:
        return ""
    lost = [
        f"{task} ({theirs.value:.3f} for {ours.tasks[task].value:.3f})"
        for task, theirs in instead.tasks.items()
        if theirs.value > ours.tasks[task].value
    ]
    where = f"ahead of {ours.title} on {', '.join(lost)}" if lost else f"ahead of {ours.title} on no task"
    return f"A {instead.title} is {where}."


def reading(table: Table) -> str:
    """What the comparison says, in one sentence."""
    found = table.comparison
    if found is None:
        return "No comparison yet: an MTA arm and a baseline are needed."
    titles = {arm.name: arm.title for arm in table.arms}
    ours, theirs = titles[found.mta], titles[found.baseline]
    span = f"{signed(found)} macro, paired"
    if found.low > 0:
        return f"{ours} is ahead of the best baseline, {theirs}: {span}."
    if found.high < 0:
        return f"{ours} is behind the best baseline, {theirs}: {span}."
    return f"{ours} and the best baseline, {theirs}, cannot be told apart: {span}."


def settings_line(settings: Settings, arms: Sequence[ArmRow] = ()) -> str:
    """What all arms share, in words, and which of `arms` do not."""
    rows = {split: getattr(settings, f"{split}_rows").values() for split in ("train", "validation", "test")}
    train = f"{min(rows['train']):,} to {max(rows['train']):,}"
    patience = settings.patience
    stop = f", stopped after {patience} validation scores without a better one" if patience else ""
    return (
        f"{len(rows['train'])} tasks of {train} training rows, {sum(rows['validation']):,} validation and "
        f"{sum(rows['test']):,} test rows in all. Every arm takes {settings.steps:,} steps of "
        f"{settings.rows_per_step} rows{stop}. "
        f"{_others(settings, arms)}{_choice_of_rate(settings)}"
    )


def _others(settings: Settings, arms: Sequence[ArmRow]) -> str:
    """The arms that were trained on clearly more or fewer rows than all are said to be."""
    wanted = settings.steps * settings.rows_per_step
    if settings.patience:  # each stops where it stops
        return ""
    other = [
        arm for arm in arms if arm.rate is not None and arm.rows is not None and abs(arm.rows - wanted) > 0.01 * wanted
    ]
    named = ", ".join(f"{arm.title} ({arm.rows:,} rows in all for {wanted:,})" for arm in other)
    return f"But {named}. " if named else ""


def _choice_of_rate(settings: Settings) -> str:
    rates, widened = settings.rates, settings.widened
    grid = ", ".join(f"{rate:g}" for rate in rates)
    if len(rates) == 1 and not widened:
        return f"Its rate is {grid}, the same for every arm and tuned for none on these rows."
    source = f"a grid that begins with {grid} and is widened until no arm is best at its edge" if widened else grid
    return f"Its rate is the best on validation rows at the first seed, of {source}."


def signed(value: Interval, digits: int = 3) -> str:
    """A difference with its interval."""
    return f"{value.value:+.{digits}f} ({value.low:+.{digits}f} to {value.high:+.{digits}f})"


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
