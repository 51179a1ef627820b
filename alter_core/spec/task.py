"""TaskSpec: one data set with one objective, and what its rows must be like."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from alter_core.spec.section import Free, Name, Section, Share, SpecProblem, spec_error
from alter_core.spec.source import SourceSpec
from alter_core.spec.task_types import TASK_TYPES, MetricName, TaskType, TaskTypeName
from alter_core.text import Layout, clean


class ExpectationSpec(Section):
    """One native Great Expectations expectation."""

    expectation: str
    """Class name, such as ExpectColumnValuesToMatchRegex."""
    arguments: Annotated[dict[str, Any], Free()] = Field(default_factory=dict)
    """Its keyword arguments. What YAML would take for something else than is written (NO, 0010, 1.10, a date) stands in
    quotes, and so does every value of a set that a column of texts is compared with."""
    severity: Literal["block", "warn"] = "block"
    """block stops the run before any training; warn is reported. A check that looked at no value has not passed."""

    @model_validator(mode="after")
    def _compares_something(self) -> "ExpectationSpec":
        column = self.arguments.get("column")
        found: list[SpecProblem] = [
            (("arguments", name), "it is empty, and fits every value: a check that cannot fail")
            for name in ("regex", "like_pattern", "regex_list", "like_pattern_list")
            if name in self.arguments and "" in (self.arguments[name], *_members(self.arguments[name]))
        ]
        wrong = [each for each in _members(self.arguments.get("value_set")) if not isinstance(each, str)]
        if wrong and isinstance(column, str) and not column.endswith("_tokens"):
            said = ", ".join(map(str, wrong[:5]))
            found.append((("arguments", "value_set"), f"column {column} holds texts: put {said} in quotes"))
        if found:
            raise spec_error(found)
        return self


def _members(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


class QualitySpec(Section):
    """What a task's rows must be like. Shares are of rows, lengths in backbone tokens."""

    min_rows: int = Field(default=20, ge=1)
    """Fewer training rows than this block."""
    max_over_length: Share = 0.1
    """A larger share of inputs over max_input_tokens warns."""
    max_duplicates: Share = 0.5
    """A larger share of duplicate rows in the source blocks."""
    max_leakage: Share = 0.05
    """A larger share of test inputs that also stand in training warns; such training rows are removed either way."""
    max_label_share: Share = 0.98
    """A label with a larger share of training rows blocks; of other tasks, one target with a larger share warns."""
    max_contradictions: Share = 0.1
    """A larger share of inputs with more than one target warns; such inputs are dropped for label tasks."""
    input_pattern: str | None = None
    """A regular expression that inputs should match; others warn."""
    language: Literal["en", "de", "fr", "es", "it", "pt", "nl"] | None = None
    """The language that inputs should be in, told by common words; unset: not looked at."""
    max_other_language: Share = 0.1
    """A larger share of inputs in another language warns."""
    max_drift: Share = 0.25
    """A larger distance from the champion's training rows (total variation of label shares, input lengths or common
    words) warns."""
    max_row_drop: Share = 0.5
    """A larger share of training rows, or of rows of a `test` source, gone since the champion's training blocks: a
    source that is cut off looks as the whole one does."""
    expectations: tuple[ExpectationSpec, ...] = ()
    """Further expectations, on the columns task, input, target, id, split, input_tokens, target_tokens of the rows
    of all splits, up to 100,000 of each."""

    @field_validator("input_pattern")
    @classmethod
    def _a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value


CONFIDENCE = 0.95
"""With which a fitted bound leaves as large a share of right answers as a task asks for."""


class TaskSpec(Section):
    """One data set with one objective."""

    name: Name
    """Lower case; how callers name the task."""
    type: TaskTypeName
    """Chooses the defaults of instruction, decoding and metrics."""
    source: SourceSpec
    """Training rows, and test rows too when `test` is unset."""
    test: SourceSpec | None = None
    """Test rows, where they come apart; unset: split off `source` by hash."""
    description: str = ""
    """One sentence for the model card."""
    licence: str = ""
    """Licence of the rows, shown in the model card."""
    instruction: str | None = None
    """Put before the input; unset means the task type's."""
    labels: tuple[str, ...] | None = None
    """Allowed targets of a label task; unset: those of the training rows."""
    metrics: tuple[MetricName, ...] | None = None
    """The first is the task's score; unset means the task type's. macro_f1 has no score per row: where models are
    compared row by row, in the macro difference of promotion and in ablation, accuracy stands for it."""
    max_input_tokens: int = Field(default=256, ge=8)
    """Longer inputs are cut at the end, in training and in use."""
    max_target_tokens: int | None = Field(default=None, ge=1)
    """Unset means the task type's."""
    layout: Layout = "auto"
    """What becomes of blanks in inputs, and in targets where a task has no labels. prose: every run of blanks is one
    space, and goes at the ends of lines; of empty lines one stays. kept: all stay, but for line ends, which become line
    feeds, and the blanks at a text's two ends. auto: kept for a text with an indented line (code, YAML), prose
    for others; where that changes blanks or indentation of targets, it is told. Labels are written as
    prose. Letters are those of Unicode NFC; case and compatibility forms (full-width, superscript) stay."""
    abstain_below: Share | None = None
    """Answers with a lower score are marked `abstain`, and are given all the same; unset: none is."""
    abstain_precision: float | None = Field(default=None, gt=0, lt=1)
    """Of a label task, in place of abstain_below: the lowest bound is taken that validation rows show, with 95%
    confidence, to leave answers of which this share is right. Where they show none, every answer is marked."""
    quality: QualitySpec = QualitySpec()
    """What the rows must be like."""

    @field_validator("labels")
    @classmethod
    def _written_as_targets_are(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        labels = value and tuple(map(clean, value))
        if labels and not all(labels):
            raise ValueError("one of them is empty; drop it")
        return labels

    @field_validator("metrics")
    @classmethod
    def _one_to_score_by(cls, value: tuple[MetricName, ...] | None) -> tuple[MetricName, ...] | None:
        if value == ():
            raise ValueError("names none; give one or more, or drop the key for the task type's")
        return value

    @model_validator(mode="after")
    def _labels_fit_the_type(self) -> "TaskSpec":
        if self.labels is not None:
            if not self.task_type.labelled:
                problem = f"a task of type {self.type} has none; drop them, or set another type"
                raise spec_error([(("labels",), problem)])
            if len(set(self.labels)) < 2 or len(set(self.labels)) != len(self.labels):
                problem = f"two or more different ones are needed, got {', '.join(self.labels) or 'none'}"
                raise spec_error([(("labels",), problem)])
        return self

    @model_validator(mode="after")
    def _one_bound(self) -> "TaskSpec":
        if self.abstain_precision is not None:
            place = ("abstain_precision",)
            if self.abstain_below is not None:
                raise spec_error([(place, "abstain_below gives the bound that this would fit: drop one of the two")])
            if not self.task_type.labelled:
                problem = f"a task of type {self.type} has no labels, and no answer of it is right or wrong: drop it"
                raise spec_error([(place, problem)])
        return self

    @property
    def fewest_rows(self) -> int:
        """Validation rows that can show abstain_precision, if all are answered right; 0 where none is asked for."""
        return math.ceil(math.log(1 - CONFIDENCE, self.abstain_precision)) if self.abstain_precision else 0

    @property
    def task_type(self) -> TaskType:
        return TASK_TYPES[self.type]

    @property
    def content(self) -> dict[str, Any]:
        """What training, scoring and answering see of the task, as JSON has it: its rows are known by their digest."""
        apart = {"source", "test", "quality", "description", "licence", "abstain_below", "abstain_precision"}
        return self.model_dump(mode="json", exclude=apart)

    @property
    def effective_metrics(self) -> tuple[MetricName, ...]:
        return self.metrics or self.task_type.metrics

    @property
    def effective_max_target_tokens(self) -> int:
        return self.max_target_tokens or self.task_type.max_target_tokens

    @property
    def effective_instruction(self) -> str:
        return self.task_type.instruction if self.instruction is None else self.instruction
