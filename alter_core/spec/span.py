"""Span: a length of time as a spec writes it, such as 30m, 12h or 14d."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def length(span: str) -> timedelta:
    """Raises ValueError for what is no length of time above zero."""
    found = re.fullmatch(r"([0-9]{1,4})([mhdw])", span)
    if not found or not int(found[1]):
        raise ValueError(f"{span!r} is no length of time; write a number and m, h, d or w, such as 30m, 12h or 14d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _right(span: str) -> str:
    length(span)
    return span


Span = Annotated[str, AfterValidator(_right)]
