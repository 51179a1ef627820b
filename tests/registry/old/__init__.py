"""Workspaces that earlier releases made, as they were: see README.md."""

import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Old:
    """An unpacked workspace."""

    home: Path
    """ALTER_HOME."""
    domain: Path
    """Folder of the domain that it holds versions of."""

    @property
    def uri(self) -> str:
        """Of its MLflow store."""
        return f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"


def unpacked(commit: str, folder: Path) -> Old:
    """The workspace that `commit` made, in `folder`, whose places then stand in its files."""
    with tarfile.open(HERE / f"{commit}.tar.xz") as archive:
        archive.extractall(folder)  # made here; Python 3.11.2, which Debian has, knows no filter
    old = Old(folder / "home", folder / "tiny")
    places = {"@HOME@": str(old.home), "@DOMAIN@": str(old.domain), "@CODE@": "/nowhere", "@SCRATCH@": "/nowhere"}
    dump = old.home / "mlflow" / "mlflow.sql"
    for file in (dump, *old.home.rglob("MLmodel")):
        text = file.read_text(encoding="utf-8")
        for place, path in places.items():
            text = text.replace(place, path)
        file.write_text(text, encoding="utf-8")
    with closing(sqlite3.connect(dump.with_suffix(".db"))) as database:
        database.executescript(dump.read_text(encoding="utf-8"))
    dump.unlink()
    return old
