"""Runs Great Expectations on frames: expectations in, plain results out. The only importer of the library."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when the library is imported

from alter_core.errors import SpecError
from alter_core.problems import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20


@dataclass
class Result:
    """What one expectation found, over one or more frames."""

    success: bool
    checked: int = 0
    """Values that were looked at; of an expectation on a whole column or table, the values or rows that it is about."""
    unexpected: int = 0
    indices: list[int] = field(default_factory=list)
    """The first unexpected rows, numbered from 0 over all frames."""
    values: list[Any] = field(default_factory=list)
    """What those rows hold."""
    observed: Any = None
    """Of expectations on a whole column or table."""
    error: str | None = None
    """Why it could not be computed."""


Found = Mapping[str, Any]
"""The library's result of one expectation, as JSON; nothing but this file reads it."""


def expectation(name: str, arguments: Mapping[str, object], severity: str, place: str) -> Any:
    """A native expectation by its class name. Raises SpecError for an unknown name or arguments that do not fit."""
    import great_expectations.expectations as gxe

    kind = getattr(gxe, name, None)
    if not (isinstance(kind, type) and issubclass(kind, gxe.Expectation)):
        known = [n for n in dir(gxe) if n.startswith("Expect") and n != "Expectation"]
        raise SpecError(f"{place}: Great Expectations has no expectation {name!r}{did_you_mean(name, known)}")
    try:
        return kind(**arguments, severity="critical" if severity == "block" else "warning")
    except (TypeError, ValueError) as error:
        parts = getattr(error, "errors", lambda: ())()  # pydantic's: its text as a whole names classes
        said = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in parts] or [" ".join(str(error).split())]
        reason = "; ".join(dict.fromkeys(said))[:300]
        raise SpecError(f"{place}: the arguments of {name} do not fit it: {reason}") from error


class Suite:
    """A suite of expectations that is run on one frame after the other."""

    def __init__(self, name: str, expectations: Sequence[Any]) -> None:
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        # The suite keeps its own copies in an order of its own: results are matched by this number.
        numbered = [each.copy() for each in expectations]
        for number, each in enumerate(numbered):
            each.meta = {"number": number}
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=[*numbered, *_row_counts(numbered)]))
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe(name)
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        self._definition = context.validation_definitions.add(definition)
        self.results = [Result(True) for _ in expectations]
        self.json: list[object] = []
        """The library's results on each frame, in its own form."""
        self._rows = 0

    def run(self, frame: "pd.DataFrame") -> None:
        """Check one frame, and add what is found to `results`."""
        found = self._definition.run(
            batch_parameters={"dataframe": frame},
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": SHOWN},
        )
        result_json = found.to_json_dict()
        counts = [each for each in result_json["results"] if "rows_of" in each["expectation_config"]["meta"]]
        result_json["results"] = [each for each in result_json["results"] if each not in counts]
        passing = {
            number: int((each.get("result") or {}).get("observed_value") or 0)
            for each in counts
            for number in each["expectation_config"]["meta"]["rows_of"]
        }
        for each in result_json["results"]:
            number = each["expectation_config"]["meta"]["number"]
            column = each["expectation_config"]["kwargs"].get("column")
            values = int(frame[column].notna().sum()) if column in frame else len(frame)
            self._add(self.results[number], each, min(values, passing.get(number, values)))
        result_json["meta"]["frame"] = len(self.json) + 1
        result_json["results"] = [_without_traces(each) for each in result_json["results"]]
        self.json.append(result_json)
        self._rows += len(frame)

    def _add(self, result: Result, found: Found, about: int) -> None:
        """about: values or rows that an expectation on a whole column or table is about."""
        details = found.get("result") or {}
        result.success = result.success and bool(found["success"])
        result.error = result.error or _error_of(found)
        if "element_count" in details:
            result.checked += int(details["element_count"] or 0) - int(details.get("missing_count") or 0)
        else:
            result.checked += about
        result.unexpected += int(details.get("unexpected_count") or 0)
        result.observed = details.get("observed_value", result.observed)
        free = SHOWN - len(result.indices)
        indices = details.get("partial_unexpected_index_list") or []
        result.indices += [self._rows + int(i) for i in indices[:free]]
        result.values += (details.get("partial_unexpected_list") or [])[:free]


def _row_counts(expectations: Sequence[Any]) -> list[Any]:
    """Expectations that hold, and count the rows that a row_condition lets pass: the library passes what looks at no
    row, and does not say how many there were. One that counts rows itself may be there to find none."""
    import great_expectations.expectations as gxe

    numbers: dict[str, list[int]] = {}
    counts: dict[str, gxe.Expectation] = {}
    for number, each in enumerate(expectations):
        if (condition := getattr(each, "row_condition", None)) is None or type(each).__name__.startswith(
            "ExpectTableRowCount"
        ):
            continue
        numbers.setdefault(str(condition), []).append(number)
        parser = {"condition_parser": each.condition_parser} if getattr(each, "condition_parser", None) else {}
        counts[str(condition)] = gxe.ExpectTableRowCountToBeBetween(min_value=0, row_condition=condition, **parser)
    for condition, count in counts.items():
        count.meta = {"rows_of": numbers[condition]}
    return list(counts.values())


def _error_of(found: Found) -> str | None:
    """The message of an expectation that could not be computed; the library reports it in one of two shapes."""
    info = found.get("exception_info") or {}
    each = [info] if "raised_exception" in info else list(info.values())
    raised = [e for e in each if isinstance(e, Mapping) and e.get("raised_exception")]
    return str(raised[0].get("exception_message")).strip() if raised else None


def _without_traces(found: Found) -> Found:
    """Tracebacks name files of the machine, and say nothing of the data."""
    if error := _error_of(found):
        return {**found, "exception_info": {"raised_exception": True, "exception_message": error}}
    return found
