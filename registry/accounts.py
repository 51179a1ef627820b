"""Accounts of an MLflow server with basic authentication."""

import base64
import json
from http import HTTPStatus
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from registry.errors import RegistryError, RegistryInputError, StoreUnavailable, reported, without_password

API = "api/2.0/mlflow/users"
SECONDS = 30.0


def ensure_account(tracking_uri: str, admin: tuple[str, str], name: str, password: str) -> bool:
    """Make the account `name`, or give it this password when it is there; whether it was made.

    admin: name and password of an administrator. An account made here may read everything and change what it makes
    itself: that is what the server's default permission READ means. Raises StoreUnavailable, RegistryError.
    """
    made, answer = _ask(tracking_uri, admin, "POST", "create", {"username": name, "password": password})
    if made == HTTPStatus.OK:
        return True
    if "RESOURCE_ALREADY_EXISTS" not in answer:
        raise RegistryError(
            f"cannot make the account {name} on the MLflow server at {tracking_uri}: {_why(made, answer)}"
        )
    changed, answer = _ask(tracking_uri, admin, "PATCH", "update-password", {"username": name, "password": password})
    if changed != HTTPStatus.OK:
        raise RegistryError(
            f"cannot set the password of {name} on the MLflow server at {tracking_uri}: {_why(changed, answer)}"
        )
    return False


def account(tracking_uri: str) -> str | None:
    """The caller's account as the server knows it, which it has checked; None where the store has no accounts.

    Raises RegistryInputError for a caller whom the server refuses, StoreUnavailable.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if not tracking_uri.lower().startswith(("http://", "https://")):
        return None
    with reported("read the account", tracking_uri):
        answer = http_request(get_default_host_creds(tracking_uri), f"/{API}/current", "GET")
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise RegistryInputError(
            f"the MLflow server at {without_password(tracking_uri)} does not know this caller; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    try:
        return str(answer.json()["user"]["username"])
    except (ValueError, KeyError, TypeError):  # a server without accounts knows no such place
        return None


def _why(status: int, answer: str) -> str:
    """The server's own words, and what to look at."""
    try:
        answer = str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        answer = " ".join(answer.split()) or "no reason"
    refused = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return f"{answer} (status {status})" + ("; check MLFLOW_ADMIN_PASSWORD" if refused else "; see the server's log")


def _ask(uri: str, admin: tuple[str, str], method: str, what: str, fields: dict[str, str]) -> tuple[int, str]:
    """Status and text of the server's answer. The admin's password is taken as given, never from the environment."""
    token = base64.b64encode(":".join(admin).encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    asked = Request(f"{uri}/{API}/{what}", json.dumps(fields).encode(), headers, method=method)
    try:
        with urlopen(asked, timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode(errors="replace")[:400]
    except (URLError, OSError) as error:
        raise StoreUnavailable(
            f"the MLflow server at {uri} does not answer: {getattr(error, 'reason', error)}; check that it runs"
        ) from error
