"""The table that a reader understands in a minute, of one or several ablations: `python -m alter_core.ablation.overview
FILE...` prints it, from their ablation.json."""

import sys
from collections.abc import Sequence
from pathlib import Path

from alter_core.ablation.page import signed, table_lines
from alter_core.ablation.table import ArmRow, Table, best_of
from alter_core.errors import DataError

HEAD = ("domain", "best baseline", "bag of words", "stage one", "two stages", "two stages against the best baseline")


def overview(tables: Sequence[Table]) -> str:
    """Markdown, a row for each domain: macro scores on test rows, and the paired difference with its interval.

    The best baseline and the best of several two-stage arms are those of the best validation score; what an ablation
    did not run is left empty.
    """
    return "\n".join(table_lines(HEAD, map(_cells, tables))) + "\n"


def _cells(table: Table) -> tuple[str, ...]:
    baseline = best_of(table.arms, "baseline")
    instead = best_of(table.arms, "instead")
    mta = [arm for arm in table.arms if arm.family == "mta"]
    one = best_of([arm for arm in mta if list(arm.cost.stages) == ["stage_one"] and arm.name != "mta_one_stage"], "mta")
    two = best_of([arm for arm in mta if "stage_two" in arm.cost.stages], "mta")
    against = two.difference if two else None
    return (
        table.domain,
        f"{_score(baseline)} ({baseline.title})" if baseline else "",
        _score(instead),
        _score(one),
        _score(two),
        signed(against) if against else "",
    )


def _score(arm: ArmRow | None) -> str:
    return "" if arm is None else f"{arm.macro.value:.3f}"


def read_tables(files: Sequence[Path]) -> list[Table]:
    """Raises DataError with every file that is no ablation.json."""
    found = {file: Table.read(file) for file in files}
    if wrong := [f"{file}: is not there, or no table of an ablation" for file, table in found.items() if not table]:
        raise DataError("give ablation.json files, as `alter ablate` leaves them", wrong)
    return [table for table in found.values() if table]


if __name__ == "__main__":
    sys.stdout.write(overview(read_tables([Path(name) for name in sys.argv[1:]])))
