"""From public repositories to a domain's rows, on made-up repositories of each layout as local remotes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alter_core.spec.load import load_domain
from domains.assistant import rows as assistant
from domains.clinical import rows as clinical
from domains.command import main
from domains.scholarly import rows as scholarly
from tests.docs.sandbox import small
from tests.domains.conftest import Remotes
from tests.domains.repositories import MODULES, git

ROOT = Path(__file__).parents[2]
REAL = ("assistant", "clinical", "scholarly")


def run(remote: str, root: Path, *names: str) -> int:
    return main([*names, "--data-root", str(root), "--remote", remote])


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def rows_of(root: Path, task: str) -> dict[str, str]:
    return {row["input"]: row["target"] for side in ("train", "test") for row in read(root / task / f"{side}.jsonl")}


@pytest.fixture(scope="module")
def made(remotes: Remotes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with all three domains."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(
                module, "REPOSITORIES", tuple(replace(r, **vars(remotes[1][r.name])) for r in module.REPOSITORIES)
            )
        assert run(remotes[0].as_uri(), root) == 0
    return root


@pytest.mark.parametrize("name", REAL)
def test_every_file_that_a_spec_names_is_made_and_nothing_else(name: str, made: Path) -> None:
    spec = load_domain(ROOT / "domains" / name)
    named = {source.path for task in spec.tasks for source in (task.source, task.test) if source}
    assert {str(file.relative_to(made)) for file in (made / name).rglob("*.jsonl")} == named
    assert not list(made.glob(".*"))


@pytest.mark.parametrize("module", MODULES, ids=REAL)
def test_the_licences_lie_beside_the_rows(module: Any, made: Path) -> None:
    folder = made / module.__name__.split(".")[1] / "LICENSES"
    names = {f"{one.folder}__{one.licence}" for one in module.REPOSITORIES}
    assert {file.name for file in folder.iterdir()} == names
    assert all("made up" in file.read_text(encoding="utf-8") for file in folder.iterdir())


def test_labels_are_those_that_the_specs_allow(made: Path) -> None:
    for name in REAL:
        for task in load_domain(ROOT / "domains" / name).tasks:
            targets = set(rows_of(made, f"{name}/{task.name}").values())
            assert len(targets) > 1
            assert task.labels is None or targets <= set(task.labels), task.name


@pytest.mark.parametrize(
    ("task", "text", "target"),
    [
        ("assistant/banking_intent", "train asks, about card 4", "card 1"),
        ("assistant/slot_value", "question: what is the people? context: 7 seats for restaurant8k train", "7"),
        (
            "assistant/slot_value",
            "question: what is the party name? context: 7 seats for dstc8/Buses_1 test",
            "dstc8/Buses_1 test",
        ),
        ("clinical/visit_section", "Doctor: MTS-Dialog-ValidationSet 4? Patient: Yes.", "history of present illness"),
        ("clinical/visit_note", "Doctor: MTS-Dialog-ValidationSet 4? Patient: Yes.", "Has had 4 colds."),
        ("clinical/pubmed_answer", "question: Does drug 4 work? conclusion: It did 4 times.", "no"),
        ("scholarly/citation_intent", "test cites [5] .", "result"),
        ("scholarly/term_relation", "[train 5] has <parts> .", "part of"),
        ("scholarly/science_entailment", "premise: dev rock 9 hypothesis: Rocks 4", "neutral"),
        ("scholarly/paper_tldr", "We test. It is 3.", "3 is."),
    ],
)
def test_a_row_reads_as_its_source_says(task: str, text: str, target: str, made: Path) -> None:
    assert rows_of(made, task)[text] == target


def test_rows_that_are_drawn_read_as_their_source_says(made: Path) -> None:
    for text, target in rows_of(made, "assistant/intent_match").items():
        said, asked = text.removeprefix("utterance: ").split(" question: ")
        assert (target == "yes") == (asked == f"is it about thing {said.split()[-1]}?")
    acts = rows_of(made, "assistant/act_to_text")
    assert acts == {
        f"service: Events acts: offer(ticket count = {n} | all); notify_failure; request(show time)": (
            f"There are {n} tickets at {n} dollars, shall I buy them?"
        )
        for n in range(len(assistant.DIALOGUES))
    }
    replies = rows_of(made, "assistant/reply_act")
    assert set(replies.values()) == {"inform", "affirm", "request", "thank you", "negate"}
    assert all(text.startswith("system: There are ") and "Two acts" not in text for text in replies)


def test_questions_asked_twice_are_no_pair_and_groups_stay_on_one_side(made: Path) -> None:
    for task, end in (("clinical/question_entailment", " question 2:"), ("scholarly/science_entailment", None)):
        train, test = (
            {row["input"].split(end)[0] if end else row["input"].split(" hypothesis: ")[1] for row in read(file)}
            for file in (made / task / "train.jsonl", made / task / "test.jsonl")
        )
        assert train
        assert test
        assert not train & test
    pairs = rows_of(made, "clinical/question_entailment")
    assert all(first.upper() != second for first, second in (text[12:].split(" question 2: ") for text in pairs))


def test_the_sheet_is_read_with_what_python_has(made: Path) -> None:
    rows = rows_of(made, "clinical/question_summary")
    assert rows == {f"SUBJECT: pill {n} Dear all": f"What is pill {n}?" for n in range(160)}


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        ("clinical/entity_list", ("chemicals", "diseases")),
        ("scholarly/term_list", ("methods", "tasks", "metrics", "materials")),
    ],
)
def test_mentions_are_listed_once_as_the_text_writes_them(task: str, kinds: tuple[str, ...], made: Path) -> None:
    rows = rows_of(made, task)
    assert len(rows) == 90 * len(kinds)  # no heading, and no other kind
    for text, target in rows.items():
        question, sentence = text.split(" context: ")
        kind = question.split()[2][:4]
        assert target in sentence
        assert target.lower().startswith(kind)
        assert target.endswith("-like")
        assert sentence.startswith("In t")
        assert sentence.endswith(").")


def test_made_again_it_is_the_same_and_says_so(
    remote: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*.jsonl")}
    assert run("file:///nowhere", made) == 0  # nothing is missing, so nothing is fetched
    said = capsys.readouterr().out
    assert all(f"{name}: the same as stands under {made / name}" in said for name in REAL)
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*.jsonl")} == before
    assert run(remote, tmp_path, "scholarly") == 0
    for file in (made / "scholarly").rglob("*.jsonl"):
        assert (tmp_path / file.relative_to(made)).read_bytes() == file.read_bytes()


def test_rows_of_somebody_else_stay(
    remote: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "scholarly" / "term_list" / "train.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine\n", encoding="utf-8")
    assert main(["scholarly", "--data-root", str(tmp_path), "--checkouts", str(made / "checkouts")]) == 2
    assert "holds other rows than these" in capsys.readouterr().err
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [mine]
    assert mine.read_text(encoding="utf-8") == "mine\n"


def changed(checkout: Path, file: str, text: str | None) -> None:
    """A commit more, with the file's text another; None takes it away."""
    if text is None:
        (checkout / file).unlink()
    else:
        (checkout / file).write_text(text, encoding="utf-8")
    git(checkout, "add", "--all", "--sparse")
    git(checkout, "commit", "--quiet", "--message", "changed")


def expect(module: Any, name: str, monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    ours = tuple(replace(one, **values) if one.name == name else one for one in module.REPOSITORIES)
    monkeypatch.setattr(module, "REPOSITORIES", ours)


@pytest.fixture
def checkouts(made: Path, tmp_path: Path) -> Path:
    """The made-up checkouts, to be spoilt."""
    return shutil.copytree(made / "checkouts", tmp_path / "checkouts")


def another_commit(checkouts: Path, _: pytest.MonkeyPatch) -> str:
    changed(checkouts / "allenai__scitldr", "more.txt", "more")
    return "allenai__scitldr: at commit "


def edited_file(checkouts: Path, _: pytest.MonkeyPatch) -> str:
    with (checkouts / "allenai__scibert" / "data/ner/sciie/train.txt").open("a", encoding="utf-8") as file:
        file.write("\r\n")
    return "sciie/train.txt: missing, or not as "


def removed_file(checkouts: Path, _: pytest.MonkeyPatch) -> str:
    (checkouts / "pubmedqa__pubmedqa" / "data/ori_pqal.json").unlink()
    return "ori_pqal.json: missing, or not as "


def moved_file(checkouts: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = checkouts / "abachaa__MeQSum"
    changed(folder, clinical.SHEET, None)
    expect(clinical, clinical.SUMMARIES, monkeypatch, commit=git(folder, "rev-parse", "HEAD"))
    return f"has no {clinical.SHEET} at "


def another_licence(checkouts: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = checkouts / "PolyAI-LDN__task-specific-datasets"
    changed(folder, "LICENSE", "All rights reserved")
    expect(assistant, assistant.POLYAI, monkeypatch, commit=git(folder, "rev-parse", "HEAD"))
    return "LICENSE: not the licence that the rows were made under"


def no_checkout(checkouts: Path, _: pytest.MonkeyPatch) -> str:
    shutil.rmtree(checkouts / "allenai__aristo-leaderboard" / ".git")
    return "allenai__aristo-leaderboard: no checkout of "


def no_such_remote(checkouts: Path, _: pytest.MonkeyPatch) -> str:
    shutil.rmtree(checkouts / "abachaa__MTS-Dialog")
    return "abachaa/MTS-Dialog cannot be fetched from file:///nowhere: "


SPOILT = (another_commit, edited_file, removed_file, moved_file, another_licence, no_checkout, no_such_remote)


def attempt(checkouts: Path, root: Path) -> int:
    return main(["--data-root", str(root), "--checkouts", str(checkouts), "--remote", "file:///nowhere"])


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("spoil", SPOILT)
def test_a_checkout_that_is_not_the_one_is_told_and_nothing_is_written(
    spoil: Callable[[Path, pytest.MonkeyPatch], str],
    checkouts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = spoil(checkouts, monkeypatch)
    assert attempt(checkouts, tmp_path / "root") == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 2  # the headline, and this one
    assert not (tmp_path / "root").exists()
    assert not list(checkouts.glob(".*"))


@pytest.mark.usefixtures("remote")
def test_all_that_is_wrong_is_told_at_once(
    checkouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [spoil(checkouts, monkeypatch) for spoil in SPOILT]
    assert attempt(checkouts, tmp_path / "root") == 2
    said = capsys.readouterr().err
    assert all(one in said for one in expected)


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize(
    ("file", "text"), [("data/ori_pqal.json", "[]"), ("data/ori_pqal.json", "{"), ("data/ori_pqal.json", '{"1": {}}')]
)
def test_another_layout_at_a_new_commit_is_told_and_the_other_domains_are_made(
    file: str,
    text: str,
    checkouts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = checkouts / "pubmedqa__pubmedqa"
    changed(folder, file, text)
    expect(clinical, clinical.PUBMED, monkeypatch, commit=git(folder, "rev-parse", "HEAD"))
    assert attempt(checkouts, tmp_path / "root") == 2
    said = capsys.readouterr().err
    assert "clinical: the task after question_entailment: a file is not of the layout" in said
    assert "Traceback" not in said
    assert sorted(file.name for file in (tmp_path / "root").iterdir()) == ["assistant", "scholarly"]


def test_a_domain_without_such_rows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("file:///nowhere", tmp_path, "pydocs", "clinical") == 2
    assert "no rows are made for pydocs; there are assistant, clinical, scholarly" in capsys.readouterr().err


def test_a_server_that_sends_only_whole_trees_gives_the_same(
    remotes: Remotes, remote: str, made: Path, tmp_path: Path
) -> None:
    for name in ("allenai/scibert", "allenai/aristo-leaderboard", "allenai/scitldr"):
        bare = shutil.copytree(remotes[0] / f"{name}.git", tmp_path / "remotes" / f"{name}.git")
        git(bare, "config", "uploadpack.allowFilter", "false")
    assert run((tmp_path / "remotes").as_uri(), tmp_path / "root", "scholarly") == 0
    for file in (made / "scholarly").rglob("*.jsonl"):
        assert (tmp_path / "root" / file.relative_to(made)).read_bytes() == file.read_bytes()


def test_make_fetches_makes_and_looks_at_the_rows_and_twice_is_the_same(
    remotes: Remotes, tiny_backbone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    for room in ("alter_core", "domains", "flows", "registry"):  # a whole checkout: one of two folders is refused
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", folder)
    for module in (assistant, clinical, scholarly):
        file = folder / "domains" / module.__name__.split(".")[1] / "rows.py"
        text = file.read_text(encoding="utf-8")
        for one in module.REPOSITORIES:
            text = text.replace(one.commit, remotes[1][one.name].commit)
            text = text.replace(one.licence_digest, remotes[1][one.name].licence_digest)
        file.write_text(text, encoding="utf-8")
        spec = file.with_name("domain.yaml")
        spec.write_text(small(spec.read_text(encoding="utf-8"), tiny_backbone), encoding="utf-8")

    def make(*settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "domains", "SETUP=no", f"VENV={sys.prefix}", *settings],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "ALTER_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
        )

    settings = (f"DATA_ROOT={tmp_path / 'root'}", f"REMOTE={remotes[0].as_uri()}")
    first = make(*settings)
    assert first.returncode == 0, first.stdout + first.stderr
    assert all(f"{name}: the same" not in first.stdout for name in REAL)
    again = make(*settings)
    assert again.returncode == 0, again.stdout + again.stderr
    assert all(f"{name}: the same as stands under" in again.stdout for name in REAL)
    assert "fetching" not in again.stdout
    assert again.stdout.count("the data passes") == len(REAL)
    nowhere = make("DATA_ROOT=")
    assert nowhere.returncode == 2
    assert "make domains DATA_ROOT=FOLDER" in nowhere.stdout
