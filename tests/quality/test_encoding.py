"""What is checked is what is taught: counts, cuts and round trips come from what training encodes with."""

from pathlib import Path
from typing import Any

import pytest

from alter_core.data.ingest import ingest
from alter_core.prompts import decode_answers, encode_targets
from alter_core.quality.encoding import encode, labels_as_one
from alter_core.quality.report import QualityReport, validate
from alter_core.spec import TaskSpec
from tests.backbones import bart, byte_level, gpt2, llama, sentence_piece, t5, unigram, word_piece
from tests.data.conftest import MadeDomain, good_rows


@pytest.fixture
def made(tmp_path: Path) -> MadeDomain:
    return MadeDomain(tmp_path)


def checked(made: MadeDomain, targets: list[str], tokenizer: Any, config: Any = None, **task: Any) -> QualityReport:
    rows = [{"input": f"the red box {number}", "target": target} for number, target in enumerate(targets)]
    made.write("rows.jsonl", rows)
    spec = made.spec({"quality": {"min_rows": 1}, **task})
    return validate(ingest(spec, made.folder, made.workspace), spec, tokenizer, config=config)


def found(report: QualityReport) -> dict[str, str]:
    """What the checks of encoding found; how rows were tidied before is told by a check of its own."""
    wrong = (item for item in report.items if item.outcome not in ("ok", "unchecked"))
    return {item.check: item.outcome for item in wrong if item.check in (CUT, BACK, LEARNT, ONE)}


NUMBERS = [str(3000 + 7 * number) for number in range(200)]
WORDS = ["red ball", "green box", "blue car", "red hat"] * 50
CUT, BACK, LEARNT, ONE = (
    "targets fit max_target_tokens",
    "targets come back from their tokens",
    "targets can be learnt",
    "labels stay apart",
)


@pytest.mark.parametrize(
    ("tokenizer", "targets", "task", "wrong"),
    [
        # a space is a token of its own before a number, so that four digits are five tokens
        (byte_level, NUMBERS, {"max_target_tokens": 5}, {}),
        (byte_level, NUMBERS, {"max_target_tokens": 4}, {CUT: "warn", LEARNT: "block"}),
        (byte_level, [*NUMBERS, "3"], {"max_target_tokens": 4}, {CUT: "warn"}),
        (byte_level, NUMBERS, {"max_target_tokens": 4, "metrics": ["rouge_l"]}, {CUT: "warn"}),
        (byte_level, WORDS, {}, {}),
        (byte_level, [*WORDS, *["naïve 日本"] * 4], {}, {}),
        (byte_level, ["say <end> now", *WORDS], {}, {}),
        # no bytes to fall back to
        (unigram, WORDS, {}, {}),
        (unigram, [*WORDS, *["日本"] * 4], {}, {BACK: "warn"}),
        (unigram, ["日本語", "中文"] * 100, {}, {BACK: "warn", LEARNT: "block"}),
        (unigram, ["日本語", "中文"] * 100, {"metrics": ["rouge_l"]}, {BACK: "warn", LEARNT: "block"}),
        (unigram, [*WORDS, "two\n\nparagraphs"], {}, {BACK: "warn"}),
        (unigram, [*WORDS, "the end </s> of it"], {}, {BACK: "warn"}),
        (sentence_piece, [*WORDS, *["日本"] * 4, "a  b"], {}, {}),
        # lower case, and signs apart
        (word_piece, WORDS, {}, {}),
        (word_piece, [*WORDS, "Red Ball"], {}, {BACK: "warn"}),
        (word_piece, [text.title() for text in WORDS], {}, {BACK: "warn"}),
        (word_piece, [*WORDS, "f(x) / 2"], {}, {BACK: "warn"}),
    ],
)
def test_free_text_is_told_where_it_would_be_taught_otherwise(
    tokenizer: Any, targets: list[str], task: dict[str, Any], wrong: dict[str, str], made: MadeDomain
) -> None:
    own = {"type": "generation", "metrics": ["exact_match"], **task}
    report = checked(made, targets, tokenizer(), **own)
    assert found(report) == wrong
    for item in report.items:
        if item.check in (CUT, BACK) and item.outcome != "ok":
            assert item.rows[0].startswith("rows.jsonl:")


@pytest.mark.parametrize(
    ("tokenizer", "labels", "limit", "same"),
    [
        (byte_level, ["2", "3", "5"], 1, "2 = 3 = 5"),
        (byte_level, ["2", "3", "5"], 2, None),
        (byte_level, ["red ball", "red box"], 1, "red ball = red box"),
        (byte_level, ["Ja", "JA", "ja"], None, None),
        (unigram, ["日本", "中文"], None, "中文 = 日本"),
        (unigram, ["red", "日本", "中文"], None, "中文 = 日本"),
        (unigram, ["red", "日本"], None, None),
        (unigram, ["ﬁn", "fin"], None, "fin = ﬁn"),
        (word_piece, ["Ja", "ja"], None, "Ja = ja"),
        (word_piece, ["resume", "résumé"], None, "resume = résumé"),
        (sentence_piece, ["日本", "中文"], None, None),
    ],
)
def test_labels_that_become_one_block_and_are_named(
    tokenizer: Any, labels: list[str], limit: int | None, same: str | None, made: MadeDomain
) -> None:
    report = checked(made, labels * 60, tokenizer(), type="classification", max_target_tokens=limit)
    items = [item for item in report.items if item.check == ONE]
    assert [item.outcome for item in items] == ["block" if same else "ok"]
    if same:
        assert same in items[0].text


@pytest.mark.parametrize(
    ("architecture", "inputs", "answers", "outcome"),
    [
        (llama, 40, 4, "ok"),
        (llama, 40, 60, "block"),
        (gpt2, 40, 60, "block"),
        (bart, 40, 60, "ok"),  # the decoder has as much room again
        (bart, 40, 64, "block"),
        (bart, 200, 4, "block"),
        (t5, 200, 300, "ok"),  # positions without an end
    ],
)
def test_prompts_and_answers_that_have_no_room_block(
    architecture: Any, inputs: int, answers: int, outcome: str, made: MadeDomain
) -> None:
    tokenizer = byte_level()
    size = {"n_positions": 64} if architecture is gpt2 else {"max_position_embeddings": 64}
    config = architecture(tokenizer, **({} if architecture is t5 else size)).config
    rows = [{"input": f"{'red ' * inputs}{number}", "target": "red"} for number in range(60)]
    made.write("rows.jsonl", rows)
    spec = made.spec({"type": "generation", "instruction": "", "max_target_tokens": answers})
    report = validate(ingest(spec, made.folder, made.workspace), spec, tokenizer, config=config)
    assert [item.outcome for item in report.items if item.check == "prompts and answers have room"] == [outcome]


def test_without_a_tokenizer_what_needs_one_is_not_said_to_be_fine(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    outcomes = {item.check: item.outcome for item in made.validate().items}
    assert {outcomes[check] for check in (CUT, BACK, LEARNT, ONE)} == {"unchecked"}


def test_counts_are_those_of_training() -> None:
    tokenizer = byte_level()
    given = {
        "name": "t",
        "type": "extraction",
        "source": {"path": "r"},
        "max_target_tokens": 4,
        "metrics": ["exact_match"],
    }
    task = TaskSpec.model_validate(given)
    told = encode(tokenizer, task, ["the red ball"] * 2, ["4711", "3"])
    taught = encode_targets(tokenizer, task, ["4711", "3"])
    assert told.target_tokens == [5, 2]
    assert [len(ids) - 1 for ids in taught] == [4, 2]
    assert decode_answers(tokenizer, taught) == ["471", "3"]
    assert (told.learnable, told.read_back) == (1, ["", ""])
    assert labels_as_one(tokenizer, task, ["4711", "4712", "3"]) == ["4711 = 4712"]
