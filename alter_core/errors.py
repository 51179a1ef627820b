"""Every error that a user of the factory can meet.

AlterError                 exit code 2 unless a subclass says otherwise
├── SpecError              a domain spec is wrong: every problem at once, each with its place
├── DataError              a source cannot be read, or its rows cannot be used
│   └── QualityBlocked     rows were read, and a blocking expectation failed
├── BackboneError          the backbone cannot be found, loaded, or is too large
├── MTAError               an MTA layer is asked for something that it cannot do
│   └── TaskIdError        a task id or name is unknown, missing or of the wrong shape
├── BundleError            a bundle is incomplete, altered or of another version
├── WorkspaceError         the workspace cannot be written, or its disk is short
├── TrainingError          a training or evaluation job ended without a result (exit code 1)
│   └── Diverged           the loss is no number any more
└── RegistryError          of registry.errors: the store could not do what was asked (exit code 1)

Stopped                    no error: the process was asked to end, and what it did is kept

A message says what happened, where, and what to do next.
"""

from collections.abc import Sequence
from typing import Self


class AlterError(Exception):
    """Base of all errors that are reported to a person without a traceback.

    `problems` holds one line per problem; `str(error)` joins them under `headline`.
    """

    exit_code = 2
    transient = False
    """Whether the same call may work later: a server that does not answer, a busy database."""

    def __init__(self, headline: str, problems: Sequence[str] = (), *, transient: bool = False) -> None:
        self.headline = headline
        self.problems = tuple(problems)
        self.transient = transient or self.transient
        super().__init__("\n".join([headline, *(f"  - {p}" for p in self.problems)]))

    @classmethod
    def of(cls, problems: Sequence[str], headline: str) -> Self:
        """The only problem as it is; several under a headline."""
        return cls(problems[0]) if len(problems) == 1 else cls(headline, problems)


class SpecError(AlterError):
    """A domain spec is wrong."""


class DataError(AlterError):
    """A source cannot be read, or its rows cannot be used."""


class QualityBlocked(DataError):
    """A blocking expectation failed; nothing may be trained on these rows."""


class BackboneError(AlterError):
    """The backbone cannot be found, loaded, or is too large."""


class MTAError(AlterError):
    """An MTA layer is asked for something that it cannot do."""


class TaskIdError(MTAError):
    """A task id or name is unknown, missing or of the wrong shape."""


class BundleError(AlterError):
    """A bundle is incomplete, altered or of another version."""


class WorkspaceError(AlterError):
    """The workspace cannot be written, or its disk is short."""


class TrainingError(AlterError):
    """A training or evaluation job ended without a result."""

    exit_code = 1


class Diverged(TrainingError):
    """The loss is no number any more."""


class Stopped(Exception):
    """The process was asked to end (SIGTERM); a checkpoint of all it did is written."""
