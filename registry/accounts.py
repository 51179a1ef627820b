"""Accounts of an MLflow server with basic authentication."""

import getpass
import os
from http import HTTPStatus
from typing import Any

from registry.errors import RegistryError, RegistryInputError, reported, without_password
from registry.store import is_server

API = "/api/2.0/mlflow/users"
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def ensure_account(tracking_uri: str, admin: tuple[str, str], name: str, password: str) -> bool:
    """Make the account `name`, or give it this password when it is there; whether it was made.

    admin: name and password of an administrator. An account made here may read everything and change what it makes
    itself: that is what the server's default permission READ means. Raises StoreUnavailable, RegistryError.
    """
    given = {"username": name, "password": password}
    made = _ask(tracking_uri, admin, "POST", "create", given)
    if made.status_code == HTTPStatus.OK:
        return True
    if "RESOURCE_ALREADY_EXISTS" not in made.text:
        raise RegistryError(f"cannot make the account {name} on the MLflow server at {tracking_uri}: {_why(made)}")
    changed = _ask(tracking_uri, admin, "PATCH", "update-password", given)
    if changed.status_code != HTTPStatus.OK:
        raise RegistryError(
            f"cannot set the password of {name} on the MLflow server at {tracking_uri}: {_why(changed)}"
        )
    return False


def account(tracking_uri: str) -> str | None:
    """The caller's account as the server knows it, which it has checked; None where the store has no accounts.

    Raises RegistryInputError for a caller whom the server refuses, StoreUnavailable.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if not is_server(tracking_uri):
        return None
    with reported("read the account", tracking_uri):
        answer = http_request(get_default_host_creds(tracking_uri), f"{API}/current", "GET")
    if answer.status_code in _REFUSED:
        raise RegistryInputError(
            f"the MLflow server at {without_password(tracking_uri)} does not know this caller; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    try:
        return str(answer.json()["user"]["username"])
    except (ValueError, KeyError, TypeError):  # a server without accounts knows no such place
        return None


def user() -> str:
    """The person at this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        return f"user {os.getuid()}"


def _ask(uri: str, admin: tuple[str, str], method: str, what: str, fields: dict[str, str]) -> Any:
    """The server's answer, of whatever status. The admin's password is taken as given, never from the environment."""
    from mlflow.utils.rest_utils import MlflowHostCreds, http_request

    with reported("reach the accounts", uri):
        return http_request(MlflowHostCreds(uri, *admin), f"{API}/{what}", method, raise_on_status=False, json=fields)


def _why(answer: Any) -> str:
    """The server's own words, and what to look at."""
    try:
        said = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        said = " ".join(answer.text[:400].split()) or "no reason"
    advice = "check MLFLOW_ADMIN_PASSWORD" if answer.status_code in _REFUSED else "see the server's log"
    return f"{said} (status {answer.status_code}); {advice}"
