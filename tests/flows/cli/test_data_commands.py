"""`alter data` and `alter new` as a person types them: exit codes, what is told, and what lies there afterwards."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alter_core.data.ingest import ingest
from flows.many import read_plans
from flows.production.plan import Plan
from tests.command_line import Alter, caller, in_terminal
from tests.conftest import tiny_rows, tiny_spec, write_domain

Rows = dict[str, list[dict[str, str]]]


@pytest.fixture
def alter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alter:
    """Run a command line in `tmp_path`; gives exit code, stdout and stderr."""
    monkeypatch.setenv("ALTER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ALTER_DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys)


@pytest.fixture
def domain(tmp_path: Path, tiny_backbone: Path) -> Callable[..., str]:
    """Write the tiny domain under a name, with rows or tasks changed; the name."""

    def make(name: str, change: Callable[[dict[str, Any], Rows], None] | None = None) -> str:
        spec, rows = {**tiny_spec(tiny_backbone), "name": name}, tiny_rows()
        for task in spec["tasks"]:
            task["licence"] = "CC0"
        if change:
            change(spec, rows)
        write_domain(tmp_path / "domains" / name, spec, rows)
        return name

    return make


def _warned(spec: dict[str, Any], rows: Rows) -> None:
    spec["tasks"][2]["max_input_tokens"] = 16
    for row in rows["thing"][:30]:
        row["input"] += " and in the yard" * 6


def _blocked(spec: dict[str, Any], rows: Rows) -> None:
    for row in rows["colour"][40:70]:
        row["target"] = "mauve"


def _broken(spec: dict[str, Any], rows: Rows) -> None:
    del rows["match"][6]["target"]


def test_good_data_ends_with_0_and_a_report_of_each_task(
    alter: Alter, domain: Callable[..., str], tmp_path: Path
) -> None:
    code, out, err = alter("data", domain("fine"))
    assert code == 0, err
    assert "fine: 300 rows of 3 tasks; the data passes" in out
    for task, kind in (("colour", "classification"), ("match", "pair_classification"), ("thing", "generation")):
        (line,) = [line.split() for line in out.splitlines() if line.split()[:1] == [task]]
        assert line[1] == kind
        read, *left_out, train, validation, test = map(int, line[2:])
        assert (read, left_out, train + validation + test) == (100, [0] * 5, 100)
        assert train > test > validation
    assert "licence of colour, match, thing: CC0" in out
    page = tmp_path / "home" / "runs" / "fine" / "data" / "quality.html"
    assert str(page) in out
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(file.name for file in page.parent.iterdir()) == [
        "great_expectations.json", "quality.html", "quality.json"
    ]  # fmt: skip
    assert not (tmp_path / "home" / "backbones").exists()  # lengths need the tokenizer alone
    code, _, err = alter("data", "fine")
    assert code == 0
    assert "read already, and unchanged" in err


def test_warnings_end_with_1_and_say_what_to_do(alter: Alter, domain: Callable[..., str]) -> None:
    code, out, err = alter("data", domain("long", _warned))
    assert code == 1, err
    assert "the data passes with warnings" in out
    assert re.search(r"warning: thing: .* of inputs are longer than 16 tokens", out)
    assert "raise max_input_tokens, or shorten the inputs" in out
    assert len(re.findall(r"^    thing\.jsonl:\d+: \d+ tokens$", out, re.M)) == 3
    assert re.search(r"and \d+ more on the page", out)


def test_blocked_data_ends_with_3_and_names_the_first_20_rows(
    alter: Alter, domain: Callable[..., str], tmp_path: Path
) -> None:
    code, out, err = alter("data", domain("bad", _blocked))
    assert code == 3
    assert "the data is blocked" in out
    assert "30 of 100 (30.0%) of targets are not in the task's labels: 'mauve'" in err
    lines = [int(number) for number in re.findall(r"colour\.jsonl:(\d+): 'mauve'", err)]
    assert len(lines) == len(set(lines)) == 20
    assert set(lines) <= set(range(41, 71))
    assert "mauve" in (tmp_path / "home" / "runs" / "bad" / "data" / "quality.html").read_text()
    assert not (tmp_path / "home" / "mlflow").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("data", "broken"), "match.jsonl:7: there is no column 'target'"),
        (("data", "brokn"), "did you mean 'broken'?"),
        (("data",), "Missing argument"),
    ],
)
def test_wrong_input_ends_with_2_and_says_where(
    alter: Alter, domain: Callable[..., str], arguments: tuple[str, ...], says: str
) -> None:
    domain("broken", _broken)
    code, out, err = alter(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("option", "given", "says"),
    [
        ("--arm", "nosuch", "no such arm: nosuch; arms are zero_shot, "),
        ("--variants", None, "'variants.yaml' does not exist"),
        ("--variants", "wide: 3\n", "wide: 3 is no mapping"),
        ("--variants", "wide: {split: {}}\n", "variant wide: split cannot vary"),
        ("--variants", "wide: {mta: {rank: 0}}\n", "variant wide: mta > rank"),
    ],
)
def test_an_ablation_of_what_is_not_there_is_refused_before_anything_starts(
    alter: Alter,
    domain: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    given: str | None,
    says: str,
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    if option == "--variants" and given:
        (tmp_path / "variants.yaml").write_text(given)
    code, out, err = alter("ablate", domain("fine"), option, given if option == "--arm" else "variants.yaml")
    assert (code, out) == (2, "")
    assert says in err
    assert {part.name for part in (tmp_path / "home").glob("*")} <= {"backbones"}


def test_of_several_domains_none_stops_another_and_the_worst_code_wins(
    alter: Alter, domain: Callable[..., str]
) -> None:
    names = [domain("broken", _broken), domain("bad", _blocked), domain("long", _warned), domain("fine")]
    code, out, err = alter("data", *names, "--json", "--quiet")
    assert code == 3
    found = {each["domain"]: each for each in json.loads(out)}
    assert {name: each["exit_code"] for name, each in found.items()} == {"broken": 2, "bad": 3, "long": 1, "fine": 0}
    assert list(found) == names
    assert "match.jsonl:7" in found["broken"]["error"]
    assert found["bad"]["outcome"] == "block"
    assert found["fine"]["error"] is None
    assert found["fine"]["tasks"]["colour"]["rows"].keys() == {"train", "validation", "test"}
    assert Path(found["long"]["page"]).is_file()
    assert err.count("error: ") == 2
    assert alter("data", "fine", "long", "broken")[0] == 2


def test_two_domains_of_one_name_are_told_apart(alter: Alter, domain: Callable[..., str], tmp_path: Path) -> None:
    one, other = tmp_path / "domains" / domain("fine"), tmp_path / "domains" / "copy"
    shutil.copytree(one, other)
    for command in ("check", "data"):
        code, _, err = alter(command, str(one), str(other))
        assert code == 2, command
        assert "rename one" in err, command
    plans, wrong = read_plans([str(one), str(other)], None)
    assert [plan.folder for plan in plans] == [one]
    assert "rename one" in wrong[0].message


def test_a_quality_report_is_of_what_was_left_out_too_and_of_the_tokenizer(
    alter: Alter, domain: Callable[..., str], tmp_path: Path
) -> None:
    def key(backbone: str = "one", repeat: int = 1) -> str:
        domain("fine", lambda spec, rows: rows["colour"].extend(rows["colour"] * (repeat - 1)))
        plan = Plan.read("fine")
        data = ingest(plan.spec, plan.folder, plan.workspace)
        return plan.quality_key(data.digest, data.manifest["tasks"], backbone, champion=None)

    assert key() == key()
    assert key("another") != key()
    assert key(repeat=4) != key()  # the same rows are kept, and three quarters were duplicates


def test_a_terminal_shows_progress(alter: Alter, domain: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, shown = in_terminal(alter, monkeypatch, "data", domain("fine"))
    assert code == 0, shown
    assert re.search(r"fine: ingest .*3/3", shown)
    assert re.search(r"fine: validate .*3/3", shown)
    assert "the data passes" in out


def test_a_new_domain_passes_the_check_and_its_data_is_read(alter: Alter, tiny_backbone: Path, tmp_path: Path) -> None:
    topics = [f"{n},message {n} about money,{('pay', 'ask')[n % 2]}" for n in range(80)]
    (tmp_path / "topic.csv").write_text("\n".join(["id,text,intent", *topics]))
    titles = [{"body": f"long story number {n} goes on", "title": f"Tale {n * 7}"} for n in range(80)]
    (tmp_path / "title.jsonl").write_text("".join(json.dumps(row) + "\n" for row in titles))
    code, out, err = alter("new", "mine", "topic.csv", "title.jsonl")
    assert code == 0, err
    assert "next: `alter check" in out
    spec = tmp_path / "domains" / "mine" / "domain.yaml"
    assert spec.read_text().count("# guessed:") == 2
    code, out, err = alter("check", "mine")
    assert code == 0, err
    assert "topic (classification), title (generation)" in out
    text = re.sub(r"model: .*", f"model: {json.dumps(str(tiny_backbone))}", spec.read_text())
    spec.write_text(text)
    code, out, err = alter("data", "mine")
    assert code == 0, out + err
    assert "mine: 160 rows of 2 tasks" in out
    code, _, err = alter("new", "mine", "topic.csv")
    assert code == 2
    assert "already there" in err
