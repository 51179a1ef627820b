"""Rows of a SELECT on any database that SQLAlchemy knows. Credentials come from the environment, and stay secret."""

import os
import re
from typing import Any
from urllib.parse import quote, quote_plus

from alter_core.data.places import Roots
from alter_core.data.rows import Rows, repeated
from alter_core.errors import DataError
from alter_core.problems import listed
from alter_core.spec import SourceSpec

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FETCH = 2000  # rows held at a time
_SCHEME = re.compile(r"^[A-Za-z0-9_+]+$")


def shown_database(url: str) -> str:
    """The URL as the spec has it, variables unexpanded, without user, password and options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme if _SCHEME.match(scheme) else 'database'}://{rest.partition('?')[0].rpartition('@')[2]}"


def query_rows(source: SourceSpec, roots: Roots) -> Rows:
    """Rows of the query, numbered from 1, streamed. Raises DataError; transient when the server does not answer."""
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

    shown = shown_database(source.sql or "")
    url, secrets = expanded(source.sql or "", shown)
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            parsed = _sqlite(parsed, roots, shown)
        engine = sa.create_engine(parsed, hide_parameters=True, poolclass=sa.NullPool)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        hint = f"install the driver ({error.name})" if isinstance(error, ImportError) else "check source > sql"
        reason = _reason(error, secrets)
        raise DataError(f"{shown}: no database can be reached by this URL: {reason}; {hint}") from None
    options: dict[str, object] = {"stream_results": True, "yield_per": _FETCH}
    if parsed.get_backend_name() == "postgresql":
        options["postgresql_readonly"] = True
    stage = "connect"
    try:
        with engine.connect().execution_options(**options) as connection:
            stage = "query"
            result = connection.execute(sa.text((source.query or "").replace(":", r"\:")))
            names = list(result.keys())
            if twice := repeated(names):
                raise DataError(f"{shown}: the query gives the column {listed(twice)} twice; use AS")
            for number, row in enumerate(result, 1):
                yield number, dict(zip(names, row, strict=True))
    except SQLAlchemyError as error:
        reason = _reason(getattr(error, "orig", None) or error, secrets)
        if stage == "connect":
            raise DataError(
                f"{shown}: the database does not let us in: {reason}; check host, port and credentials", transient=True
            ) from None
        broken = isinstance(error, DBAPIError) and error.connection_invalidated
        raise DataError(f"{shown}: the query failed: {reason}; check source > query", transient=broken) from None
    finally:
        engine.dispose()


def expanded(text: str, shown: str) -> tuple[str, list[str]]:
    """`text` with ${VAR} replaced from the environment, quoted for a URL, and the values, which are secret."""
    missing = sorted({name for name in _VARIABLE.findall(text) if name not in os.environ})
    if missing:
        names = ", ".join(missing)
        raise DataError(f"{shown}: {names} is not set in the environment; export it before the run")
    secrets = [os.environ[name] for name in _VARIABLE.findall(text)]
    if _VARIABLE.fullmatch(text):  # the variable holds a whole URL, written as one
        return os.environ[_VARIABLE.findall(text)[0]], secrets
    return _VARIABLE.sub(lambda match: quote(os.environ[match[1]], safe=""), text), secrets


def _sqlite(url: Any, roots: Roots, shown: str) -> Any:
    """The file is looked for under the roots, and opened read-only."""
    if not url.database or url.database == ":memory:" or url.query or url.database.startswith("file:"):
        raise DataError(f"{shown}: name one SQLite file under the spec's folder or the data root, without options")
    path = roots.find(url.database)
    if path is None or not path.is_file():
        raise DataError(f"{shown}: there is no such database under {roots}; check source > sql")
    return url.set(database=f"file:{quote(str(path.resolve()))}", query={"uri": "true", "mode": "ro"})


def _reason(error: BaseException, secrets: list[str]) -> str:
    """One line of the driver's message, with no secret in it."""
    text = " ".join(str(error).split())
    for secret in secrets:
        pieces = {secret, quote(secret, safe=""), quote_plus(secret), *re.split(r"[:/@?]+", secret)}
        for piece in sorted((p for p in pieces if len(p) > 2), key=len, reverse=True):
            text = text.replace(piece, "***")
    return text[:300] or "the driver does not say why"
