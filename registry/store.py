"""The MLflow store: how it is opened, and the lock under which its aliases move."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from registry.errors import RegistryInputError, StoreUnavailable, reported
from registry.places import corrected

LOCK_PREFIX = "alter-lock-"
LOCK_SECONDS = 60.0  # what is done under the lock takes far less: one held longer was left by a process that died
POLL_SECONDS = 0.1


def open_client(tracking_uri: str) -> Any:
    """An MlflowClient on `tracking_uri` (sqlite:///FILE, or an http server), with nothing global set.

    An embedded store is made when it is missing, in a folder that is there; one that was copied or moved is told where
    its files lie now. Raises StoreUnavailable, RegistryError, and
    RegistryInputError without that folder, for a folder instead of a file, or without the driver of a database.
    """
    from mlflow.tracking import MlflowClient

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        # After the import, which sets its own levels: every migration of a new database would be a line.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
    file = sqlite_file(tracking_uri)
    if file and not file.parent.is_dir():
        raise RegistryInputError(
            f"there is no folder {file.parent} for the MLflow store {file.name}; make it, or name another one "
            "(MLFLOW_TRACKING_URI)"
        )
    if file and file.is_dir():  # MLflow would try again for minutes
        raise RegistryInputError(
            f"{file} is a folder, and an MLflow store is a file; name a file in it, such as mlflow.db "
            "(MLFLOW_TRACKING_URI)"
        )
    with reported("open", tracking_uri), _alone(file) if file else nullcontext():
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        if file:
            corrected(file)
        return client


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time, as whoever opens a store makes or migrates its tables, and MLflow has no lock for that.

    Raises StoreUnavailable when another one takes too long.
    """
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(file.parent / f".{file.name}.lock", timeout=2 * LOCK_SECONDS))
        except Timeout:
            raise StoreUnavailable(
                f"the MLflow store {file} is being made or migrated by another process for more than "
                f"{2 * LOCK_SECONDS:.0f} s; wait for it, then try again"
            ) from None
        except OSError:  # who may not write beside the store only reads it
            pass
        yield


def sqlite_file(tracking_uri: str) -> Path | None:
    """The database file of an embedded store; None for a server."""
    return Path(tracking_uri.removeprefix("sqlite:///")) if tracking_uri.startswith("sqlite:///") else None


def is_server(tracking_uri: str) -> bool:
    """Whether an address is that of an MLflow server."""
    return tracking_uri.lower().startswith(("http://", "https://"))


@contextmanager
def domain_lock(client: Any, tracking_uri: str, domain: str, timeout: float = 2 * LOCK_SECONDS) -> Iterator[None]:
    """Hold `domain`'s registrations and aliases still: one holder at a time, over processes and machines.

    MLflow moves an alias without comparing. Beside an embedded store a lock file does it. On a server, making a
    registered model is the one atomic step that every client has: the name is taken by one caller only. Raises
    StoreUnavailable when the lock is not free within `timeout` seconds.
    """
    file = sqlite_file(tracking_uri)
    if file is not None:
        try:
            with FileLock(file.parent / f".{domain}.lock", timeout=timeout):
                yield
        except Timeout:
            raise _not_free(domain, timeout) from None
        return
    name, owner = f"{LOCK_PREFIX}{domain}", uuid4().hex
    _take(client, tracking_uri, name, owner, domain, timeout)
    try:
        yield
    finally:
        _drop(client, name, owner)


def _take(client: Any, uri: str, name: str, owner: str, domain: str, timeout: float) -> None:
    from mlflow.exceptions import MlflowException

    deadline = time.monotonic() + timeout
    seen, since = None, 0.0  # by this clock alone: a server's may be another
    while True:
        with reported(f"lock {domain}", uri):
            try:
                client.create_registered_model(name, tags={"owner": owner})
                return
            except MlflowException as error:
                # A server finds the name taken, looks who has it, and may find it dropped in between.
                if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
                    raise
            try:
                holder = client.get_registered_model(name).tags.get("owner", "")
            except MlflowException:
                holder = None  # dropped in between
            if holder == owner:
                return  # the server took our name, went away before it said so, and was asked again
            if holder != seen:
                seen, since = holder, time.monotonic()
            elif holder is not None and time.monotonic() - since > LOCK_SECONDS:
                _drop(client, name, holder)
        if time.monotonic() > deadline:  # also of a lock that was left by another account, which alone may drop it
            raise _not_free(domain, timeout, f" If none is at work, delete the registered model {name}")
        time.sleep(POLL_SECONDS)


def _drop(client: Any, name: str, owner: str) -> None:
    """Give the lock back, unless somebody found it too old and holds it now."""
    from mlflow.exceptions import MlflowException

    try:
        if client.get_registered_model(name).tags.get("owner", "") == owner:
            client.delete_registered_model(name)
    except MlflowException:
        pass  # already gone; a lock that stays behind is found too old by the next holder


def _not_free(domain: str, timeout: float, otherwise: str = "") -> StoreUnavailable:
    return StoreUnavailable(
        f"{domain} is being registered or promoted by another process for more than {timeout:.0f} s; "
        f"wait for it, then try again.{otherwise}"
    )


def pages(search: Callable[[str | None], Any]) -> list[Any]:
    """All that a search of MLflow finds, which it gives by pages."""
    found: list[Any] = []
    token = None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found
