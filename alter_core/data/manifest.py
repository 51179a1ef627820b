"""Manifest: what a data set's manifest.json says of its rows."""

from typing import NotRequired, TypedDict

from alter_core.problems import Note


class Reported(TypedDict):
    """What a person is shown of one task's rows; rows and label_counts are by split."""

    rows: dict[str, int]
    read: int
    filtered: int
    over_limit: int
    duplicates: int
    leakage: int
    contradictions: int
    """Inputs with more than one target; `contradicting` are the rows dropped for it."""
    contradicting: int
    tidied: dict[str, int]
    """`target: blanks` and the like -> rows in which tidying changed what may carry meaning."""
    label_counts: dict[str, dict[str, int]]
    sources: dict[str, dict[str, object]]
    """source and test -> what the spec says of them, without credentials."""
    type: str


class TaskManifest(Reported):
    """All that is kept of one task's rows."""

    digest: str
    labels: list[str]
    inputs: int
    by_case: int
    """Inputs that case alone tells from one with another target."""
    test_inputs: int
    leaked_inputs: int
    examples: dict[str, list[dict[str, int]]]
    """duplicates, leakage, contradictions and by_case -> file and line, as `TaskDataset.place` takes them, of a few."""
    notes: list[Note]
    parts: list[tuple[str, bool]]
    """Name of each file or the like, and whether its rows are counted by line."""


class Manifest(TypedDict):
    """The whole, as far as it is read again."""

    order: list[str]
    tasks: dict[str, TaskManifest]
    digest: NotRequired[str]
    """Not there while rows are read."""
