"""Every error that the registry reports to a person, and the table that makes them of MLflow's and its database's.

AlterError
└── RegistryError              exit code 1: the store could not do what was asked
    ├── RegistryInputError     exit code 2: the caller named something that is not there, or that may not be done
    ├── StoreUnavailable       exit code 1, transient: the store does not answer; the same call may work later
    ├── AliasConflict          exit code 1: somebody else moved the alias in between; the same call never works again
    └── VerificationError      exit code 1: a registered version does not give the answers that were recorded for it

A message says what happened, where, and what to do next.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from alter_core.errors import AlterError


class RegistryError(AlterError):
    """Base of all errors of the registry."""

    exit_code = 1


class RegistryInputError(RegistryError):
    """The caller named something that is not there, or asked for what may not be done."""

    exit_code = 2


class StoreUnavailable(RegistryError):
    """The store does not answer, or its database is busy."""

    transient = True


class AliasConflict(RegistryError):
    """The alias was moved by somebody else since it was read: decide again, against the version that has it now."""


class VerificationError(RegistryError):
    """A registered version does not give the answers that were recorded for it."""


_BUSY_CODES = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}
_REFUSED = {
    "UNAUTHENTICATED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "PERMISSION_DENIED": "what another account made needs its permission, which the server's administrator gives",
}
_BUSY_WORDS = ("database is locked", "connection refused", "max retries exceeded", "timed out", "connection aborted")


@contextmanager
def reported(doing: str, uri: str) -> Iterator[None]:
    """Turn what MLflow raises while `doing` something on the store at `uri` into a RegistryError: its own errors, and
    those of its database or of a package that is not there, which it lets through while it opens a store."""
    from mlflow.exceptions import MlflowException

    uri = without_password(uri)
    try:
        yield
    except MlflowException as error:
        text = without_password(str(error))
        busy = error.error_code in _BUSY_CODES or any(word in text.lower() for word in _BUSY_WORDS)
        if busy:
            raise StoreUnavailable(
                f"cannot {doing}: the MLflow store at {uri} does not answer or is busy: {_short(text)}; "
                "check that it runs, then try again"
            ) from error
        if advice := _REFUSED.get(error.error_code):
            account = os.environ.get("MLFLOW_TRACKING_USERNAME")
            who = f"the account {account!r}" if account else "a caller without an account"
            raise RegistryInputError(f"cannot {doing}: the MLflow server at {uri} refuses {who}; {advice}") from error
        raise RegistryError(f"cannot {doing} in the MLflow store at {uri}: {_short(text)}") from error
    except ModuleNotFoundError as error:
        other = (
            ", or name a PostgreSQL database as postgresql+psycopg://... (MLFLOW_TRACKING_URI), whose driver comes "
            "with the extra `postgres`"
        )
        raise RegistryInputError(
            f"cannot {doing}: the MLflow store at {uri} needs the Python package {error.name}, which is not there; "
            f"install it{'' if uri.startswith(('http', 'sqlite')) else other}"
        ) from error
    except _of_database() as error:
        text = without_password(str(getattr(error, "orig", None) or error))  # without the statement and its values
        if any(word in text.lower() for word in _BUSY_WORDS):
            raise StoreUnavailable(
                f"cannot {doing}: the database at {uri} does not answer or is busy: {_short(text)}; "
                "check that it runs, then try again"
            ) from error
        raise RegistryError(
            f"cannot {doing}: the database at {uri} answers: {_short(text)}; check that it is MLflow's "
            "(MLFLOW_TRACKING_URI names another), and that this user may read and write it"
        ) from error


def _of_database() -> type[Exception]:
    """Asked for when something was raised: it takes a while to import, and a server's client does without."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def without_password(text: str) -> str:
    """`text` with the account and password of every URL in it cut out."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def _short(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
