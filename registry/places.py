"""Where a store's files lie, and what of them belongs to whoever opened it.

MLflow writes absolute places into its tables. A store that was copied, moved or restored elsewhere so names the folder
that it was made in: whoever uses it would read, write and delete there. The files of an embedded store lie in the
folder `artifacts` beside its database; `corrected` brings the recorded places back to that folder when the store is
opened, and `Places` tells own files from others' before anything is written or deleted.
"""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from registry.errors import RegistryInputError, StoreUnavailable

STORE, ARTIFACTS = "mlflow.db", "artifacts"  # as they are named in a workspace
BUSY_SECONDS = 60.0
EVIDENCE = 500  # newest runs and models of an experiment that are looked for
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
log = logging.getLogger(__name__)


def local(place: str) -> Path | None:
    """The path of a place on this machine; None for a place that only a server or an object store knows."""
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return None if "://" in place or urlsplit(place).scheme else Path(place)


class Places:
    """The folders that a store's caller owns: files are written and deleted in these alone.

    store: the file of an embedded store, None for a server or a database. artifacts: of the caller's workspace; unset,
    what lies beside an embedded store.
    """

    def __init__(self, store: Path | None, artifacts: Path | None) -> None:
        self.store = store
        beside = store.parent.absolute() / ARTIFACTS if store else None
        self.own = tuple(dict.fromkeys(folder for folder in (artifacts, beside) if folder))
        self.alone = store is not None and len(self.own) == 1
        """Whether the store is the caller's own, so that no other workspace's files can be meant in it."""

    def hold(self, path: Path) -> bool:
        """Whether a path is below an own folder, links followed. A folder that a link leads out of its parent is
        nobody's own: a copy of the workspace has the same link."""
        real = path.resolve()
        roots = [folder.resolve() for folder in self.own if folder.resolve().is_relative_to(folder.parent.resolve())]
        return any(real.is_relative_to(root) for root in roots)

    def claimed(self, path: Path, model_id: str) -> Path | None:
        """The workspace's own store, where files lie beside it, and it is another than the opened one and names this
        model too: the opened one is a copy of its database alone."""
        for folder in self.own:
            file = folder.parent / STORE
            beside = file.is_file() and path.resolve().is_relative_to(folder.resolve())
            if not beside or (self.store and file.samefile(self.store)):
                continue
            with suppress(sqlite3.Error), closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database:
                asked = "SELECT 1 FROM logged_models WHERE model_id = ? AND lifecycle_stage = 'active'"
                if database.execute(asked, (model_id,)).fetchone():
                    return file
        return None

    def found(self, place: str, what: str, model_id: str) -> Path:
        """Where the files of a stored model are read. Raises RegistryInputError with both places for those of another
        workspace in a store that is the caller's own."""
        path = local(place)
        assert path is not None
        if not self.alone or any(path.is_relative_to(folder) for folder in self.own) or self.hold(path):
            return path
        here = self.own[0] / "models" / model_id / ARTIFACTS
        if here.is_dir():  # the store could not be corrected, as its file may only be read
            return here
        raise RegistryInputError(
            f"the files of {what} lie at {path}, outside of this workspace, whose files lie in {self.own[0]}: the "
            "store was copied or moved without them. Copy that folder too, or set ALTER_HOME to the workspace that it "
            "belongs to"
        )

    def need(self, place: str, what: str) -> None:
        """Raises RegistryInputError with both places where files of `what` would be written outside of own folders."""
        path = local(place)
        if not self.own or path is None or self.hold(path):
            return
        where = " or ".join(map(str, self.own))
        leads = f", which leads by a link to {path.resolve()}" if path.resolve() != path else ""
        raise RegistryInputError(
            f"{what} keeps its files at {path}{leads}, outside of this workspace, whose files lie in {where}: nothing "
            "is written there. Set ALTER_HOME to the workspace that the place belongs to (a whole workspace may be a "
            "link), name another store (MLFLOW_TRACKING_URI), or rename in MLflow what has this name there"
        )


def corrected(store: Path) -> None:
    """Bring the places that an embedded store recorded back to the folder beside it, where the files are there.

    In one transaction, and told in the log. A place of which nothing lies here stays: it may be another workspace's.
    Raises StoreUnavailable while the database is busy.
    """
    own = store.parent.absolute() / ARTIFACTS
    try:
        with closing(sqlite3.connect(store, timeout=BUSY_SECONDS, isolation_level=None)) as database:
            if not list(_moves(database, store, own)):
                return
            database.execute("BEGIN IMMEDIATE")
            moves = list(_moves(database, store, own))  # another process may have been faster
            changed = sum(_moved(database, *move) for move in moves)
            database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if "readonly" in str(error):
            return  # `Places.found` looks here all the same
        if "locked" in str(error):
            raise StoreUnavailable(f"the MLflow store {store} is busy ({error}); try again") from error
        return  # no tables of MLflow's, which MLflow itself tells
    except sqlite3.DatabaseError:
        return  # as above
    for before, now in moves:
        lost = "" if (missing := _missing(store, now)) == 0 else f"; the files of {missing} models are not here"
        log.warning(
            "the MLflow store %s was copied or moved: its files were said to lie in %s, and lie in %s%s (%d places "
            "corrected)",
            *(store, local(before), local(now), lost, changed),
        )


def _moves(database: sqlite3.Connection, store: Path, own: Path) -> Iterator[tuple[str, str]]:
    """(recorded, present) places of experiments whose files lie here and are said to lie elsewhere."""
    rows = database.execute("SELECT CAST(experiment_id AS TEXT), artifact_location FROM experiments").fetchall()
    known = {place for _, place in rows}
    # Of an experiment that was removed for good its versions may be left.
    sources = {source for (source,) in database.execute("SELECT source FROM model_versions") if source}
    rows += [(None, root) for root in {_root(source) for source in sources} - known if root]
    moved: list[str] = []
    for experiment, place in sorted(rows, key=lambda row: row[1] or ""):
        path = local(place) if place else None
        if path is None or _below(path, own) or any(place.startswith(f"{one}/") for one in moved):
            continue
        ways = [(own, own.as_uri()), (own / path.name, f"{own.as_uri()}/{place.rpartition('/')[2]}")]
        for folder, present in ways:
            if any((folder / part).exists() for part in _parts(database, experiment, place)):
                moved.append(place)
                yield place, present
                break
        else:  # an experiment without files, of a store that lay in a folder of this name
            if experiment and path.parts[-2:] == (store.parent.name, ARTIFACTS) and not path.exists():
                yield place, own.as_uri()


def _below(path: Path, own: Path) -> bool:
    """Whether a recorded place is this one, also under another name (a link, a relative path)."""
    plain = ".." not in path.parts and path.is_relative_to(own)
    return plain or (path.exists() and path.resolve().is_relative_to(own.resolve()))


def _root(source: str) -> str | None:
    """The experiment's place of a model's place."""
    head, models, _ = source.rpartition("/models/m-")
    return head if models and local(source) else None


def _parts(database: sqlite3.Connection, experiment: str | None, place: str) -> Iterator[str]:
    """What should lie below an experiment's place, its newest first."""
    asked: Sequence[tuple[str, tuple[object, ...]]]
    if experiment is None:
        asked = [("SELECT source FROM model_versions ORDER BY creation_time DESC", ())]
    else:
        asked = [
            (
                f"SELECT {column} FROM {table} WHERE experiment_id = ? ORDER BY rowid DESC LIMIT {EVIDENCE}",
                (experiment,),
            )
            for table, column in _PLACES[1:3]
        ]
    for query, values in asked:
        for (found,) in database.execute(query, values):
            if found and found.startswith(f"{place}/"):
                yield found[len(place) + 1 :]


def _moved(database: sqlite3.Connection, before: str, now: str) -> int:
    """Give every place at or below `before` the same one below `now`; how many there were."""
    changed = 0
    for table, column in _PLACES:
        cursor = database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
        )
        changed += cursor.rowcount
    return changed


def _missing(store: Path, root: str) -> int:
    """Models below `root` whose files are not there."""
    with closing(sqlite3.connect(store, timeout=BUSY_SECONDS)) as database:
        rows = database.execute(
            "SELECT artifact_location FROM logged_models WHERE lifecycle_stage = 'active' AND substr("
            "artifact_location, 1, ?) = ?",
            (len(root) + 1, f"{root}/"),
        ).fetchall()
    return sum(not path.exists() for (place,) in rows if (path := local(place)))
