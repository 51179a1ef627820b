"""ScheduleSpec: when a domain is produced unattended."""

from datetime import datetime

from pydantic import field_validator

from alter_core.problems import did_you_mean
from alter_core.spec.section import Section


class ScheduleSpec(Section):
    """When the domain is produced unattended."""

    cron: str
    """Five fields, as in crontab; also L as the day (a month's last) and 5#4 as the weekday (its fourth Friday)."""
    timezone: str = "UTC"
    """IANA name, such as Europe/Berlin."""
    active: bool = True
    """false keeps the deployment and pauses its schedule."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        from zoneinfo import available_timezones

        if value not in available_timezones():
            raise ValueError(f"unknown time zone {value!r}{did_you_mean(value, available_timezones())}")
        return value

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        from cronsim import CronSim, CronSimError

        if len(value.split()) != 5:
            raise ValueError(f"cron needs five fields (minute hour day month weekday), got {value!r}")
        try:
            CronSim(value, datetime(2026, 1, 1))
        except CronSimError as error:
            problem = str(error)
            raise ValueError(f"{value!r} is no time that cron knows: {problem[:1].lower()}{problem[1:]}") from None
        # Prefect's own reading of cron knows less; it is not installed wherever specs are read.
        day, weekday = value.upper().split()[2::2]
        numbered = ["#" in term for term in weekday.split(",")]
        if any("L" in term and term != "L" for term in day.split(",")):
            raise ValueError(f"Prefect cannot start at {value!r}: of days with L it knows L alone, a month's last day")
        if "L" in weekday:
            raise ValueError(f"Prefect cannot start at {value!r}: it knows no last weekday; 5#4 is the fourth Friday")
        if any(numbered) and not all(numbered):
            raise ValueError(f"Prefect cannot start at {value!r}: write all weekdays with # or none")
        return value
