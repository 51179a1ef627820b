"""What a user would take instead of a model: it learns from training rows, and copies as validation rows say."""

from typing import Any

import pytest

from alter_core.data.ingest import ingest
from alter_core.evaluation import baselines
from alter_core.evaluation.baselines import BagOfWordsOrCopy, first_sentence
from alter_core.evaluation.rows import chosen_rows
from alter_core.spec.load import load_domain
from alter_core.workspace import Workspace
from tests.conftest import write_domain

WORDS = {"bad": "awful", "good": "lovely", "odd": "\u5947\u602a"}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[BagOfWordsOrCopy, Any, Any]:
    """Of a domain whose labels hang on a word, and whose titles are the first sentence of their text."""
    home = tmp_path_factory.mktemp("baselines")
    label, text = list(WORDS), [f"Item {n} came. It was {list(WORDS.values())[n % 3]}, they said." for n in range(90)]
    rows = {
        "mood": [{"input": line, "target": label[n % 3]} for n, line in enumerate(text)],
        "title": [{"input": line, "target": line.split(" It")[0]} for line in text],
        "echo": [{"input": line, "target": line} for line in text],
    }
    tasks = [
        {
            "name": name,
            "type": "classification" if name == "mood" else "generation",
            "source": {"path": f"{name}.jsonl"},
        }
        for name in rows
    ]
    values = {"name": "plain", "backbone": {"model": "none/none"}, "tasks": tasks}
    folder = write_domain(home / "domain", values, rows).parent
    spec = load_domain(folder / "domain.yaml")
    dataset = ingest(spec, folder, Workspace(home / "home"))
    return BagOfWordsOrCopy(dataset, spec.with_labels(dataset.labels)), dataset, spec


def test_a_bag_of_words_tells_labels_by_words_of_any_script(taught: Any) -> None:
    bag, dataset, spec = taught
    rows = [row for row in chosen_rows(dataset, spec, "test", None) if row["task"] == "mood"]
    found = bag.predict([row["task"] for row in rows], [row["input"] for row in rows])
    assert [one.text for one in found] == [row["target"] for row in rows]
    assert all(1 / 3 < one.score <= 1 for one in found)


def test_the_copy_is_the_one_that_validation_rows_prefer(taught: Any) -> None:
    bag, _, _ = taught
    assert bag.by == {
        "mood": "a bag of words",
        "title": "a copy of the first sentence",
        "echo": "a copy of the input",
    }
    found = bag.predict(["echo", "title"], ["One. Two.", "One. Two."])
    assert [one.text for one in found] == ["One. Two.", "One."]


def test_a_bag_of_words_that_learnt_from_a_part_of_the_rows_says_so(
    taught: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dataset, spec = taught
    monkeypatch.setattr(baselines, "MOST_ROWS", 20)
    count = dataset.counts("train")["mood"]
    assert BagOfWordsOrCopy(dataset, spec).by["mood"] == f"a bag of words (20 of {count} rows)"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Take 3.5 mg. Then go!", "Take 3.5 mg."),
        ("\u4f60\u597d\u3002\u8c01\uff1f", "\u4f60\u597d\u3002"),
        ("one line\nmore.", "one line"),
        ("", ""),
    ],
)
def test_a_first_sentence_ends_at_its_mark_or_line(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_rows_without_words_or_with_one_label_get_the_commonest(taught: Any) -> None:
    for inputs, targets in ((["?", "!"], ["b", "a"]), (["one", "two"], ["a", "a"])):
        assert baselines._bag_of_words(inputs, targets)(["x"]) == [("a", 1.0)]
