"""What is checked of a task: a table of expectations on its rows and on its counts, with the words that report them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from alter_core.quality.great_expectations import expectation
from alter_core.spec import TaskSpec

Severity = Literal["block", "warn"]


@dataclass(frozen=True)
class Check:
    """One expectation and its words. `wrong` and `remedy` may name {found}, {limit} and {values}."""

    name: str
    severity: Severity
    expectation: Any
    wrong: str
    remedy: str
    column: str | None = None
    """The column whose unexpected values are shown; of a check on counts, the count."""
    limit: Any = None
    examples: str | None = None
    """Which examples of ingestion show the rows: duplicates, leakage or contradictions."""
    native: bool = False
    """Named in the spec: run on one frame, as not every expectation adds up over frames."""


def row_checks(task: TaskSpec, place: str) -> list[Check]:
    """Expectations on the columns task, input, target, id, split, input_tokens, target_tokens.

    Raises SpecError when the spec names an expectation that is not there.
    """
    quality = task.quality
    short, most = 1 - quality.max_over_length, task.effective_max_target_tokens
    length, value = "ExpectColumnValueLengthsToBeBetween", "ExpectColumnValuesToBeBetween"
    checks = [
        *(_row(f"{column} is there", "block", length, column, {"min_value": 1},
               f"{{found}} of {column}s are empty", "fill them, or take the rows out of the source")
          for column in ("input", "target")),
        _row("inputs fit max_input_tokens", "warn", value, "input_tokens",
             {"max_value": task.max_input_tokens, "mostly": short},
             f"{{found}} of inputs are longer than {task.max_input_tokens} tokens; at most {1 - short:.1%} may be",
             "raise max_input_tokens, or shorten the inputs: what is over it is cut"),
        _row("targets fit max_target_tokens", "block" if task.task_type.labelled else "warn", value, "target_tokens",
             {"max_value": most}, f"{{found}} of targets are longer than {most} tokens",
             "raise max_target_tokens, or shorten the targets: what is over it is cut"),
        _row("targets come back from their tokens", "warn", length, "read_back", {"max_value": 0},
             "{found} of targets are others once the backbone's tokenizer has encoded and decoded them",
             "write them with characters that it knows, or choose another backbone: they are taught as it reads them"),
    ]  # fmt: skip
    if quality.input_pattern is not None:
        checks.append(
            _row("inputs match input_pattern", "warn", "ExpectColumnValuesToMatchRegex", "input",
                 {"regex": quality.input_pattern},
                 f"{{found}} of inputs do not match {_verbatim(repr(quality.input_pattern))}",
                 "mend the rows, or the pattern in quality > input_pattern")
        )  # fmt: skip
    for number, asked in enumerate(quality.expectations):
        where = f"{place} > quality > expectations[{number}]"
        checks.append(
            Check(
                asked.expectation,
                asked.severity,
                expectation(asked.expectation, asked.arguments, asked.severity, where),
                f"{asked.expectation} ({_verbatim(_said(asked.arguments))}) does not hold",
                "mend the rows, or the expectation in the spec",
                column=asked.arguments.get("column"),
                native=True,
            )
        )
    return checks


def label_check(labels: tuple[str, ...]) -> Check:
    """Every target is one of the labels."""
    return _row(
        "targets are labels",
        "block",
        "ExpectColumnValuesToBeInSet",
        "target",
        {"value_set": list(labels)},
        "{found} of targets are not in the task's labels: {values}",
        "add them to labels, map them with source > label_map, or leave the rows out with source > where",
    )


def count_checks(task: TaskSpec) -> list[Check]:
    """Expectations on a table of one row: what ingestion and the profile counted."""
    quality = task.quality
    checks = [
        _count("enough rows", "block", "train_rows", quality.min_rows, None,
               "{found} training rows; quality > min_rows asks for {limit}", "add rows, or lower min_rows"),
        _count("rows to test on", "block", "test_rows", 1, None,
               "there are no test rows", "add rows, raise split > test, or name test rows with `test`"),
        _count("rows to validate on", "warn", "validation_rows", 1, None,
               "there are no validation rows", "add rows, or raise split > validation"),
        _count("few duplicates", "block", "duplicate_share", None, quality.max_duplicates,
               "{found} of the source's rows are duplicates; at most {limit} may be",
               "look at how the source is made, or raise quality > max_duplicates: duplicates are removed either way",
               "duplicates"),
        _count("little leakage", "warn", "leakage_share", None, quality.max_leakage,
               "{found} of test inputs stand in training too; at most {limit} may",
               "the training rows were removed; look at how the test rows were chosen", "leakage"),
        _count("few contradictions", "warn", "contradiction_share", None, quality.max_contradictions,
               "{found} of inputs have more than one target; at most {limit} may",
               "settle which target is right" + (": these rows were dropped" if task.task_type.labelled else ""),
               "contradictions"),
        _count("prompts and answers have room", "block", "tokens_over_room", None, 0,
               "the longest prompt with its answer is {found} tokens over what the backbone reads",
               "lower max_input_tokens or max_target_tokens, shorten the instruction, or choose another backbone"),
        _count("targets can be learnt", "block", "unlearnable_targets", None, 0,
               "of {found} training targets none comes back from its tokens in a way that the first metric counts, so "
               "that no model could be right",
               "raise max_target_tokens where targets are cut; else choose a backbone whose tokenizer knows their "
               "characters"),
        _count("case tells no inputs apart", "warn", "by_case", None, 0,
               "{found} inputs differ from another by case alone and have another target; all of them were kept",
               "see that case means something there", "by_case"),
    ]  # fmt: skip
    if task.fewest_rows:
        checks.append(
            _count("rows to fit a bound on", "warn", "validation_rows", task.fewest_rows, None,
                   "{found} validation rows; abstain_precision needs {limit} and more, as one of them may be wrong: "
                   "every answer will abstain", "add rows, raise split > validation, or lower abstain_precision")
        )  # fmt: skip
    if quality.language is not None:
        checks.append(
            _count("in the language asked for", "warn", "other_language_share", None, quality.max_other_language,
                   f"{{found}} of inputs are not in {quality.language!r}; at most {{limit}} may be",
                   "filter the source with source > where, or unset quality > language")
        )  # fmt: skip
    if task.task_type.labelled:
        # Labels that the spec lists side by side are meant so.
        severity: Severity = "warn" if task.labels else "block"
        alike = "write them alike with source > label_map" + (", if labels does not mean both" if task.labels else "")
        checks += [
            _count("more than one label", "block", "train_labels", 2, None,
                   "the training rows have {found} label",
                   "a label task needs two; look at source > where and source > label_map"),
            _count("no label takes all", "block", "label_share", None, quality.max_label_share,
                   "one label has {found} of the training rows; at most {limit} may be",
                   "add rows of the other labels, or raise quality > max_label_share"),
            _count("labels differ in more than case", severity, "labels_by_case", None, 0,
                   "{values} differ only by case, or as 1 and 1.0 do",
                   alike),
            _count("labels do not look alike", severity, "labels_alike", None, 0,
                   "{values} look alike: they differ by characters that are not seen, or by letters that look the same",
                   alike),
            _count("labels stay apart", "block", "labels_as_one", None, 0,
                   "labels become one, as the backbone's tokenizer gives them the same tokens: {values}",
                   "raise max_target_tokens where they are cut, or write them so that they begin differently with "
                   "source > label_map"),
            _count("every label is trained", "warn", "untrained_labels", None, 0,
                   "labels without a training row: {values}", "add rows, or take them out of labels"),
            _count("no label is rare", "warn", "rare_labels", None, 0,
                   "labels that one or two training rows have: {values}",
                   "see that they are no misspelling, and no line that is no row; add rows, or leave them out"),
        ]  # fmt: skip
    else:
        checks.append(
            _count("no target takes all", "warn", "target_share", None, quality.max_label_share,
                   "one target has {found} of the training rows; at most {limit} may",
                   "see that target is the right column; else add other rows, or raise quality > max_label_share")
        )  # fmt: skip
    return checks


def _row(
    name: str,
    severity: Severity,
    kind: str,
    column: str,
    arguments: Mapping[str, object],
    wrong: str,
    remedy: str,
) -> Check:
    made = expectation(kind, {"column": column, **arguments}, severity, name)
    return Check(name, severity, made, wrong, remedy, column=column)


def _count(
    name: str,
    severity: Severity,
    column: str,
    low: float | None,
    high: float | None,
    wrong: str,
    remedy: str,
    examples: str | None = None,
) -> Check:
    bounds = {"min_value": low, "max_value": high}
    given = {key: value for key, value in bounds.items() if value is not None}
    made = expectation("ExpectColumnValuesToBeBetween", {"column": column, **given}, severity, name)
    limit = low if high is None else high
    return Check(name, severity, made, wrong, remedy, column=column, limit=limit, examples=examples)


def _said(arguments: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in arguments.items())[:160]


def _verbatim(text: str) -> str:
    """Text of a spec for `wrong`, which is a format: a regular expression may hold braces."""
    return text.replace("{", "{{").replace("}", "}}")
