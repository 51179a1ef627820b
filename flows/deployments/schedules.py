"""When each domain's deployment starts: the spec's cron, moved by some minutes where others start at the same time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError
from prefect.client.schemas.schedules import CronSchedule

from alter_core.errors import SpecError
from alter_core.spec import DomainSpec

STAGGER_MINUTES = 3  # a start costs some seconds of a server; many at once time out


@dataclass(frozen=True)
class Schedule:
    """One domain's start times."""

    cron: str
    timezone: str
    active: bool

    def of_prefect(self) -> CronSchedule:
        """The same as Prefect has it, but for `active`. Raises SpecError for what it does not take."""
        try:
            return CronSchedule(cron=self.cron, timezone=self.timezone)
        except ValueError:
            raise SpecError(
                f"schedule: Prefect does not take cron {self.cron!r} in the time zone {self.timezone!r}; write another"
            ) from None


def staggered(specs: Mapping[str, DomainSpec]) -> dict[str, Schedule]:
    """Schedules of the domains (name -> spec) that have one.

    Domains with the same cron and time zone start STAGGER_MINUTES apart, in the order of their names: the first keeps
    its cron as written. Minutes wrap within the hour, so that a shift never moves a start to another hour, day or
    month. A domain that starts every minute stays as it is. Raises SpecError for minutes that cron does not know.
    """
    found: dict[str, Schedule] = {}
    taken: dict[tuple[str, str], int] = {}
    for name in sorted(specs):
        schedule = specs[name].schedule
        if schedule is None:
            continue
        cron = " ".join(schedule.cron.split())
        place = taken.get((cron, schedule.timezone), 0)
        taken[cron, schedule.timezone] = place + 1
        found[name] = Schedule(shifted(cron, place * STAGGER_MINUTES), schedule.timezone, schedule.active)
    return found


def shifted(cron: str, minutes: int) -> str:
    """`cron` with its minutes moved by `minutes` within the hour. Raises SpecError for minutes that are none."""
    first, *rest = cron.split()
    if minutes == 0 or first == "*":
        return cron
    moved = sorted((minute + minutes) % 60 for minute in _minutes(first, cron))
    return " ".join([",".join(map(str, moved)), *rest])


def _minutes(field: str, cron: str) -> set[int]:
    """The minutes that a cron field names, as CronSim reads them."""
    try:
        return {int(minute) for minute in CronSim(f"{field} * * * *", datetime.now(UTC)).minutes}
    except CronSimError:
        raise SpecError(
            f"schedule > cron: the minutes {field!r} of {cron!r} are none that cron knows (0 to 59, or *)"
        ) from None
