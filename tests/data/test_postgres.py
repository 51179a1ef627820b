"""A real database as a source: a PostgreSQL server of its own, on loopback, for as long as these tests run."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from alter_core.errors import DataError
from tests.data.conftest import MadeDomain, good_rows

PASSWORD = "s3cret/with:odd@signs"
_ON_PATH = shutil.which("initdb")
BINARIES = [Path(_ON_PATH).parent] if _ON_PATH else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
MISSING = "PostgreSQL's server programs are not installed"
pytestmark = pytest.mark.skipif(not BINARIES and not os.environ.get("ALTER_NEED_POSTGRES"), reason=MISSING)


def _as_server(command: list[str]) -> None:
    """PostgreSQL refuses to run as root: there its programs run as the user that the package made."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, capture_output=True, timeout=120, cwd="/")


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """Port of a server with the table rows. ALTER_NEED_POSTGRES=1 makes a failure of what is a skip elsewhere."""
    if not BINARIES:
        pytest.fail(MISSING)
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        folder, password = Path(name), Path(name, "password")
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            shutil.chown(password, "postgres")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        programs, data = BINARIES[-1], folder / "data"
        make = ["-A", "scram-sha-256", "-U", "owner", f"--pwfile={password}", "--no-sync"]
        _as_server([str(programs / "initdb"), "-D", str(data), *make])
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        control = [str(programs / "pg_ctl"), "-D", str(data), "-w"]
        _as_server([*control, "-l", str(folder / "log"), "-o", options, "start"])
        try:
            _fill(port)
            yield port
        finally:
            _as_server([*control, "-m", "immediate", "stop"])


def _fill(port: int) -> None:
    url = sa.URL.create("postgresql+psycopg", "owner", PASSWORD, "127.0.0.1", port, "postgres")
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text("create table rows (id int, body text, label text, made timestamptz)"))
        values = [{"n": n, "i": row["input"], "t": row["target"]} for n, row in enumerate(good_rows(5000))]
        connection.execute(sa.text("insert into rows values (:n, :i, :t, now())"), values)


QUERY = "select id, body, label, made::text as day from rows where label <> 'x:y'"


def _source(port: int, query: str = QUERY) -> dict[str, object]:
    return {
        "sql": f"postgresql+psycopg://owner:${{ALTER_TEST_PASSWORD}}@127.0.0.1:{port}/postgres",
        "query": query,
        "columns": {"input": "body", "target": "label", "id": "id"},
    }


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTER_TEST_PASSWORD", PASSWORD)


@pytest.mark.usefixtures("password")
def test_rows_come_from_a_query(server: int, made: MadeDomain) -> None:
    dataset = made.ingest({"source": _source(server)})
    assert sum(dataset.manifest["tasks"]["task"]["rows"].values()) == 5000
    assert dataset.labels == {"task": ("no", "yes")}
    assert set(dataset.rows("test")["id"]) < {str(n) for n in range(5000)}


@pytest.mark.usefixtures("password")
def test_a_database_is_read_anew_and_its_content_tells_whether_anything_changed(server: int, made: MadeDomain) -> None:
    first = made.ingest({"source": _source(server)})
    assert first.manifest["fingerprint"] is None
    assert made.ingest({"source": _source(server)}).path == first.path
    other = made.ingest({"source": _source(server, "select id, body, label from rows where id < 4000")})
    assert other.digest != first.digest


@pytest.mark.usefixtures("password")
def test_no_password_is_kept_or_told(server: int, made: MadeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made.ingest({"source": _source(server)})
    kept = "".join(file.read_text() for file in dataset.path.rglob("*.json"))
    assert "s3cret" not in kept
    assert "owner" not in kept
    monkeypatch.setenv("ALTER_TEST_PASSWORD", "wrong/pass@word")
    with pytest.raises(DataError, match="does not let us in") as caught:
        made.ingest({"source": _source(server)})
    assert "wrong/pass" not in str(caught.value)
    assert caught.value.transient


@pytest.mark.usefixtures("password")
def test_a_query_cannot_write(server: int, made: MadeDomain) -> None:
    query = "with gone as (delete from rows returning id, body, label) select * from gone"
    with pytest.raises(DataError, match="the query failed"):
        made.ingest({"source": _source(server, query)})
    assert sum(made.ingest({"source": _source(server)}).manifest["tasks"]["task"]["rows"].values()) == 5000


@pytest.mark.usefixtures("password")
def test_a_wrong_column_names_those_that_are_there(server: int, made: MadeDomain) -> None:
    source = {**_source(server), "columns": {"input": "text", "target": "label"}}
    with pytest.raises(DataError, match=r"no column 'text'.*'id', 'body', 'label', 'day'"):
        made.ingest({"source": source})


def test_a_server_that_does_not_answer_is_worth_a_retry(made: MadeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTER_TEST_PASSWORD", PASSWORD)
    with pytest.raises(DataError, match="does not let us in") as caught:
        made.ingest({"source": _source(9)})
    assert caught.value.transient
    assert "s3cret" not in str(caught.value)
