"""How a command line ends, and what a person or a program reads of it."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

import flows.deployments.status
from alter_core.errors import AlterError, DataError, SpecError
from flows import many
from flows.deployments.deploy import server_errors
from flows.production import display, ending
from flows.production.plan import find_domain
from tests.command_line import Alter, caller
from tests.conftest import tiny_spec, write_domain


@pytest.fixture
def alter(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Alter:
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys)


def ended(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | Callable[[], None],
    name: str = "go",
) -> tuple[int, str]:
    """Exit code and stderr of a command that raises `error`, or does what raises one."""
    app = typer.Typer()

    def command() -> None:
        if isinstance(error, BaseException):
            raise error
        error()

    app.command("go")(command)
    app.command("look")(command)
    monkeypatch.setattr("sys.argv", ["alter", name])
    with pytest.raises(SystemExit) as exit_:
        ending.run(app, resumed=("go",))
    return int(exit_.value.code or 0), capsys.readouterr().err


Ended = Callable[..., tuple[int, str]]


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ended:
    return lambda error, name="go": ended(monkeypatch, capsys, error, name)


def test_ctrl_c_says_whether_the_same_command_goes_on(end: Ended) -> None:
    assert end(KeyboardInterrupt()) == (130, "\nstopped; the same command goes on from the last checkpoint\n")
    assert end(KeyboardInterrupt(), "look") == (130, "\nstopped\n")


def test_sigterm_says_it_too_for_whoever_reads_a_supervisors_log(end: Ended) -> None:
    assert end(SystemExit(143)) == (143, "\nstopped by SIGTERM; the same command goes on from the last checkpoint\n")
    assert end(SystemExit(143), "look") == (143, "\nstopped by SIGTERM\n")
    assert end(SystemExit(2)) == (2, "")


def _killed_while_it_ends() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        raise AlterError("the server is away")


def _killed_in_a_flow() -> None:
    try:
        raise TerminationSignal(signal.SIGTERM)  # Prefect's own answer to the signal while a flow runs
    except TerminationSignal:
        try:
            raise ConnectionError("the server is away")
        except ConnectionError as error:
            raise RuntimeError("the state was not set") from error


@pytest.mark.parametrize("what", [_killed_while_it_ends, _killed_in_a_flow])
def test_what_fails_on_the_way_out_after_sigterm_is_no_error_of_its_own(end: Ended, what: Callable[[], None]) -> None:
    assert end(what) == (143, "\nstopped by SIGTERM; the same command goes on from the last checkpoint\n")
    assert end(AlterError("another"))[0] == 2


def test_a_server_that_went_away_by_the_same_sigterm_is_not_to_blame() -> None:
    with pytest.raises(SystemExit) as ended, server_errors():
        _killed_in_a_flow()
    assert ended.value.code == 143


def test_an_error_of_ours_is_a_message_with_every_problem(end: Ended) -> None:
    assert end(DataError("two things", ["this", "that"])) == (2, "error: two things\n  - this\n  - that\n")


def test_a_place_that_may_not_be_written_is_named_with_what_to_do(end: Ended) -> None:
    code, said = end(PermissionError(errno.EACCES, "Permission denied", "/srv/alter"))
    assert code == 2
    assert said.startswith("error: /srv/alter: Permission denied; let this user read and write there")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/dev/null/x"), "/dev/null/x: Not a directory; a part"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/srv"), "/srv: Is a directory; name a file, or move"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "/a/b"), "; a link in this path leads back"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
         "No space left on device; free some space"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_used_is_told_with_what_to_do(end: Ended, error: Exception, says: str) -> None:
    code, said = end(error)
    assert code == 2
    assert says in said


def test_a_domain_that_may_not_be_read_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refused)  # real permissions stop nobody where tests run as root
    with pytest.raises(SpecError, match=r"closed/domain\.yaml: this user may not look there; check the permissions"):
        find_domain("closed/domain.yaml")


def test_a_defect_keeps_its_traceback(end: Ended) -> None:
    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError())


def test_check_tells_programs_of_every_domain_in_one_document(alter: Alter, tmp_path: Path) -> None:
    (tmp_path / "fine.yaml").write_text(json.dumps(tiny_spec(tmp_path)))
    (tmp_path / "bad.yaml").write_text(json.dumps({**tiny_spec(tmp_path), "seed": "one", "colour": "red"}))
    code, out, err = alter("check", "fine.yaml", "bad.yaml", "--json")
    fine, bad = json.loads(out)
    assert (code, fine["problems"], bad["tasks"]) == (2, [], {})
    assert fine["tasks"]
    told = "\n".join(bad["problems"])
    assert "seed: must be a whole number, got 'one'" in told
    assert "colour: unknown key" in told
    assert "bad.yaml: 2 problems" in err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://host:port/api"])
def test_a_server_that_is_away_is_named_with_what_to_look_at(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(AlterError, match="check PREFECT_API_URL") as caught, server_errors():
            httpx.get(url)
    assert caught.value.transient
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # nobody set what would be checked
        with pytest.raises(AlterError, match=r"of this run .* run the same command again$"), server_errors():
            httpx.get(url)
    with pytest.raises(RuntimeError, match="of another kind"), server_errors():
        raise RuntimeError("of another kind")


def test_without_a_domain_a_teams_own_are_meant_and_those_of_the_package_where_it_has_none(
    alter: Alter, tmp_path: Path
) -> None:
    shipped = {row["domain"] for row in json.loads(alter("check", "--json")[1])}
    assert "pydocs" in shipped
    (tmp_path / "domains" / "own").mkdir(parents=True)
    (tmp_path / "domains" / "own" / "domain.yaml").write_text(json.dumps({**tiny_spec(tmp_path), "name": "own"}))
    assert [row["domain"] for row in json.loads(alter("check", "--json")[1])] == ["own"]
    assert json.loads(alter("check", "pydocs", "--json")[1])[0]["domain"] == "pydocs"


def test_ctrl_c_does_not_say_that_a_deployed_run_goes_on_from_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, alter: Alter, tmp_path: Path
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.cli.unattended.all_or", stopped)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    assert "from the last checkpoint" in alter("run", "x")[2]
    assert alter("run", "x", "--deployed") == (130, "", "\nstopped\n")


@pytest.mark.parametrize("more", [("tiny",), ("--yaml", "prefect.yaml")])
def test_prune_is_refused_beside_what_it_would_be_without_effect(
    alter: Alter, tmp_path: Path, more: tuple[str, ...]
) -> None:
    code, _, err = alter("deploy", "--prune", *more)
    assert code == 2
    assert "give neither DOMAIN nor --yaml" in err
    assert not (tmp_path / "prefect.yaml").exists()


@pytest.mark.parametrize(
    ("when", "cell", "advice"),
    [
        ({"next": None, "late": False, "scheduled": False}, "by hand", ""),
        ({"next": None, "late": False, "scheduled": True}, "not served", "no start is planned"),
        ({"next": "2026-01-02T03:00:00", "late": False, "scheduled": True}, "2026-01-02 03:00", ""),
        (
            {"next": "2026-01-02T03:00:00", "late": True, "scheduled": True},
            "late since 2026-01-02 03:00",
            "start a worker",
        ),
    ],
)
def test_the_status_says_when_a_start_that_is_asked_for_does_not_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, when: dict[str, Any], cell: str, advice: str
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    others = ("problem", "state", "message", "started", "run", "champion", "macro", "promoted")
    flows.deployments.status.print_status(
        [flows.deployments.status.DomainStatus(domain="x", **dict.fromkeys(others), **when)]
    )
    table, _, below = capsys.readouterr().out.partition("└")
    assert f" {cell} " in table
    assert advice in below if advice else "x:" not in below


def lines(quiet: bool = False) -> list[str]:
    clock, file = 0.0, io.StringIO()
    shown = display.Display(Console(file=file, quiet=quiet, width=40, get_time=lambda: clock))
    shown.note("a line that is longer than forty characters and stays one line")
    for done in (0, 600_000, 1_200_000):
        shown.update("read", done, 1_200_000, {"loss": 0.5})
        clock += 75
    shown.update("ingest", 1, 3, {})
    return file.getvalue().splitlines()


def test_without_a_terminal_progress_is_whole_lines_with_the_time_left() -> None:
    note, first, half, whole, ingest = lines()
    assert note.endswith("stays one line")
    assert first == "read: 0/1,200,000  loss 0.500"
    assert half == "read: 600,000/1,200,000  loss 0.500, 1:15 left"
    assert whole == "read: 1,200,000/1,200,000  loss 0.500, 0:00 left"
    assert ingest == "ingest: 1/3"


def test_lines_come_more_rarely_the_longer_a_phase_takes() -> None:
    clock, file = 0.0, io.StringIO()
    shown = display.Display(Console(file=file, get_time=lambda: clock))
    for step in range(7200):
        clock = float(step)
        shown.update("train", step, 7200, {})
    assert 10 < len(file.getvalue().splitlines()) < 60


def test_quiet_shows_nothing() -> None:
    assert lines(quiet=True) == []


def test_the_next_domain_has_a_pace_of_its_own() -> None:
    clock, file = 0.0, io.StringIO()
    shown = display.Display(Console(file=file, get_time=lambda: clock))
    for begin, pace in ((0, 1), (10_000, 2)):
        for done in (0, 100, 200):
            clock = float(begin + done * pace)
            shown.update("read", done, 200, {})
    assert [line.partition("  ")[2] for line in file.getvalue().splitlines()][1::3] == ["1:40 left", "3:20 left"]


def test_time_left_is_told_in_hours_where_it_takes_hours() -> None:
    assert display.describe({"seconds_left": 18725}) == "5:12:05 left"
    assert display.describe({"seconds_left": 65}) == "1:05 left"


def test_a_teams_own_domain_comes_before_one_of_the_package_with_its_name(alter: Alter, tmp_path: Path) -> None:
    own = write_domain(tmp_path / "domains" / "pydocs", {**tiny_spec(Path("backbone")), "name": "pydocs"})
    assert find_domain("pydocs") == own


def test_options_of_run_reach_the_flow(
    alter: Alter, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(write_domain(tmp_path / "tiny", tiny_spec(tiny_backbone)))
    given: list[dict[str, Any]] = []

    def produced(_plan: object, parameters: dict[str, Any]) -> None:
        given.append(parameters)
        raise KeyboardInterrupt

    def deployed(_plans: object, parameters: dict[str, Any], *_: object) -> list[Any]:
        given.append(dict(parameters))
        return []

    monkeypatch.setattr(many, "produce_here", produced)
    monkeypatch.setattr(many, "produce_deployed", deployed)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("ALTER_DATA_ROOT", str(tmp_path))
    alter("run", file, "--force", "--processes", "2")
    assert [(one["force"], one["processes"]) for one in given] == [(True, 2)]
    given.clear()
    # A deployment has a data root of its own, which this shell's may not replace unasked.
    alter("run", file, "--deployed")
    alter("run", file, "--deployed", "--data-root", str(tmp_path))
    assert ["data_root" in one for one in given] == [False, True]


@pytest.mark.parametrize(
    ("command", "needed"),
    [(["--help"], set()), (["check"], set()), (["models"], {"mlflow", "pandas"})],
    ids=["help", "check", "models"],  # a set has no order, and each worker its own
)
def test_a_command_that_only_looks_imports_no_more_than_it_needs(
    command: list[str], needed: set[str], tmp_path: Path
) -> None:
    """Each of these takes a second or more to import."""
    heavy = ("great_expectations", "matplotlib", "mlflow", "pandas", "prefect", "sklearn", "torch", "transformers")
    code = (
        "import sys\n"
        "from flows.cli.app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        f"print(*[name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        env={**os.environ, "ALTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stderr.split()) == needed
