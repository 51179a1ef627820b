"""What a report says: outcomes, the rows it points to, drift, and a page that needs no network."""

import json
import re
from random import Random
from typing import Any

import pytest

from alter_core.data.ingest import ingest
from alter_core.errors import QualityBlocked
from alter_core.quality import task as task_quality
from alter_core.quality.page import quality_page
from alter_core.quality.profile import Profile, drift, profile, total_variation
from alter_core.quality.report import QualityReport, validate
from tests.data.conftest import MadeDomain, good_rows

PAIRS = {"type": "generation"}


def _report(made: MadeDomain, *tasks: dict[str, Any], champion: dict[str, Any] | None = None) -> QualityReport:
    spec = made.spec(*tasks)
    return validate(ingest(spec, made.folder, made.workspace), spec, None, champion)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[unk]": 0, "[end]": 1, "yes": 2, "no": 3}, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[unk]", eos_token="[end]")


def test_good_rows_pass(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(400))
    report = _report(made)
    assert report.outcome == "ok", report.wrong("block") + report.wrong("warn")
    report.raise_if_blocked()


def test_a_blocking_check_names_its_first_rows_with_file_and_line(made: MadeDomain) -> None:
    bad = [{"input": f"odd one {n}", "target": "maybe"} for n in range(30)]
    made.write("rows.jsonl", good_rows(200) + bad)
    report = _report(made, {"labels": ["yes", "no"]})
    (item,) = report.wrong("block")
    assert item.unexpected == 30
    assert len(item.rows) == 20
    lines = {int(re.match(r"rows\.jsonl:(\d+): 'maybe'", row)[1]) for row in item.rows}  # type: ignore[index]
    assert lines <= set(range(201, 231))
    assert item.rows == tuple(sorted(item.rows))
    with pytest.raises(QualityBlocked, match="nothing was trained"):
        report.raise_if_blocked()


def test_rows_are_found_beyond_the_first_frame(made: MadeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_quality, "FRAME_ROWS", 30)
    made.write("rows.jsonl", [*good_rows(200), {"input": "odd", "target": "maybe"}])
    (item,) = _report(made, {"labels": ["yes", "no"]}).wrong("block")
    assert item.rows == ("rows.jsonl:201: 'maybe'",)
    assert item.checked == 201


def test_lengths_are_in_tokens_of_the_backbone(made: MadeDomain, tokenizer: Any) -> None:
    long = [{"input": " ".join(f"w{n}x{k}" for k in range(40)), "target": "yes"} for n in range(60)]
    made.write("rows.jsonl", good_rows(200) + long)
    spec = made.spec({"max_input_tokens": 16})
    report = validate(ingest(spec, made.folder, made.workspace), spec, tokenizer)
    (item,) = report.wrong("warn")
    assert item.check == "inputs fit max_input_tokens"
    assert (item.unexpected, item.checked) == (60, 260)
    assert item.rows[0].endswith(": 40 tokens")
    assert report.profile["task"]["input_tokens"]["1"] == 40


def test_leakage_contradictions_and_untrained_labels_warn(made: MadeDomain) -> None:
    both = [{"input": f"which {n}", "target": target} for n in range(40) for target in ("yes", "no")]
    made.write("rows.jsonl", good_rows(200) + both)
    made.write("test.jsonl", good_rows(50))
    report = _report(made, {"test": {"path": "test.jsonl"}, "labels": ["yes", "no", "never"]})
    assert report.outcome == "warn"
    found = {item.check: item.text for item in report.wrong("warn")}
    assert set(found) == {"little leakage", "few contradictions", "every label is trained"}
    assert "'never'" in found["every label is trained"]
    assert re.match(r"[789]\d\.\d% of test inputs", found["little leakage"])  # the others stood in validation


def test_too_few_validation_rows_for_the_precision_that_a_task_asks_for_warn(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    (item,) = _report(made, {"abstain_precision": 0.99}).wrong("warn")
    assert item.check == "rows to fit a bound on"
    assert "abstain_precision needs 299 and more" in item.text
    assert _report(made, {"abstain_precision": 0.5}).outcome == "ok"


def test_another_language_and_another_pattern_warn(made: MadeDomain) -> None:
    german = [{"input": f"das ist nicht die {n} und der ist es auch", "target": "no"} for n in range(100)]
    made.write("rows.jsonl", good_rows(100) + german)
    report = _report(made, {"quality": {"language": "en", "input_pattern": "^(?:is|das)"}})
    assert {item.check for item in report.wrong("warn")} == {"in the language asked for"}
    report = _report(made, {"quality": {"input_pattern": "^is"}})
    assert {item.check for item in report.wrong("warn")} == {"inputs match input_pattern"}


def test_a_native_expectation_warns_where_the_spec_says_so(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    asked = {"expectation": "ExpectColumnUniqueValueCountToBeBetween",
             "arguments": {"column": "target", "min_value": 5}, "severity": "warn"}  # fmt: skip
    report = _report(made, {"quality": {"expectations": [asked]}})
    assert report.outcome == "warn"
    assert "found 2" in report.wrong("warn")[0].text


def test_a_native_expectation_sees_the_rows_of_every_split(made: MadeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_quality, "FRAME_ROWS", 150)  # the training rows alone are more
    made.write("rows.jsonl", good_rows(200))
    made.write("test.jsonl", [*good_rows(20, first=300), {"input": "my card is 4000 1234", "target": "yes"}])
    asked = {"expectation": "ExpectColumnValuesToNotMatchRegex", "arguments": {"column": "input", "regex": "[0-9]{4}"}}
    (item,) = _report(made, {"test": {"path": "test.jsonl"}, "quality": {"expectations": [asked]}}).wrong("block")
    assert item.rows == ("test.jsonl:21: 'my card is 4000 1234'",)


def test_patterns_with_braces_are_told_as_they_stand(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows())
    asked = {"expectation": "ExpectColumnValuesToMatchRegex", "arguments": {"column": "target", "regex": "^[yn]{2}$"}}
    report = _report(made, {"quality": {"input_pattern": "^was .{4}", "expectations": [{**asked, "severity": "warn"}]}})
    texts = [item.text for item in report.wrong("warn")]
    assert any("'^was .{4}'" in text for text in texts)
    assert any("regex: ^[yn]{2}$" in text for text in texts)


def test_drift_from_the_champions_rows_is_told(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(400))
    before = json.loads(json.dumps(_report(made).to_json()))["profile"]
    assert _report(made, champion=before).drift["task"] == {"labels": 0.0, "words": 0.0}
    moved = [{**row, "input": row["input"].replace("ripe", "sold at noon")} for row in good_rows(400)]
    made.write("rows.jsonl", [row for n, row in enumerate(moved) if row["target"] == "yes" or n < 60])
    report = _report(made, champion=before)
    assert {item.check for item in report.wrong("warn")} == {"drift of labels", "drift of words"}
    assert report.drift["task"]["labels"] > 0.25


def test_a_source_that_has_lost_most_of_its_rows_blocks(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(400))
    before = json.loads(json.dumps(_report(made).to_json()))["profile"]
    made.write("rows.jsonl", good_rows(150))
    [blocking] = _report(made, champion=before).wrong("block")
    assert f"where the champion had {before['task']['rows']}" in blocking.text
    assert _report(made, {"quality": {"max_row_drop": 0.8}}, champion=before).outcome == "ok"


def test_test_rows_of_their_own_that_were_cut_off_block(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    task = {"test": {"path": "test.jsonl"}}
    made.write("test.jsonl", good_rows(100, first=500))
    split_off = json.loads(json.dumps(_report(made).to_json()))["profile"]
    assert not _report(made, task, champion=split_off).wrong("block")
    before = json.loads(json.dumps(_report(made, task).to_json()))["profile"]
    made.write("test.jsonl", good_rows(3, first=500))
    [blocking] = _report(made, task, champion=before).wrong("block")
    assert "3 test rows where the champion had 100" in blocking.text


def test_labels_that_went_or_came_since_the_champion_are_told(made: MadeDomain) -> None:
    rows = good_rows(400)
    made.write(
        "rows.jsonl", [{**row, "target": "refund" if n % 10 == 0 else row["target"]} for n, row in enumerate(rows)]
    )
    before = json.loads(json.dumps(_report(made).to_json()))["profile"]
    made.write(
        "rows.jsonl", [{**row, "target": "refnud" if n % 40 == 0 else row["target"]} for n, row in enumerate(rows)]
    )
    [warned] = _report(made, champion=before).wrong("warn")
    assert "no more: 'refund'; new: 'refnud'" in warned.text


def test_words_drift_where_no_spaces_part_them() -> None:
    def told(first: int) -> Profile:
        draw = Random(first)
        texts = ["".join(chr(first + draw.randrange(300)) for _ in range(20)) for _ in range(2000)]
        return profile(texts, [], [], {"a": 1, "b": 1})

    assert drift(told(0x4E00), told(0x4E00))["words"] == 0
    assert drift(told(0x4E00), told(0x6E00))["words"] > 0.99


def test_total_variation_is_0_for_equal_and_1_for_disjoint_shares() -> None:
    assert total_variation({"a": 0.5, "b": 0.5}, {"b": 0.5, "a": 0.5}) == 0
    assert total_variation({"a": 1.0}, {"b": 1.0}) == 1
    assert total_variation({"a": 0.8}, {"a": 0.5}) == pytest.approx(0.3)


def test_the_page_escapes_what_rows_hold_and_needs_no_network(made: MadeDomain) -> None:
    evil = "<script src='http://x'>"
    made.write("rows.jsonl", [*good_rows(200), {"input": "odd", "target": evil}])
    page = quality_page(_report(made, {"labels": ["yes", "no"]}))
    assert "<script" not in page
    assert "&lt;script" in page
    assert not re.search(r"""(src|href)=["']?http""", page)


def test_a_report_is_plain_data(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    report = _report(made)
    told = json.loads(json.dumps(report.to_json()))
    assert told["outcome"] == "ok"
    assert told["tasks"]["task"]["rows"]["train"] > 100
    assert set(report.gx_json["task"]) == {"rows", "counts"}
    assert json.dumps(report.gx_json)


def test_a_label_that_would_be_cut_blocks_and_a_few_long_inputs_pass(made: MadeDomain, tokenizer: Any) -> None:
    long = [{"input": " ".join(f"w{n}x{k}" for k in range(40)), "target": "yes"} for n in range(8)]
    made.write("rows.jsonl", good_rows(200) + long)  # 4 % of at most 10 %
    spec = made.spec({"max_input_tokens": 16})
    assert validate(ingest(spec, made.folder, made.workspace), spec, tokenizer).outcome == "ok"
    made.write("rows.jsonl", [{**row, "target": f"{row['target']} of course"} for row in good_rows(200)])
    spec = made.spec({"max_target_tokens": 2})
    [item] = validate(ingest(spec, made.folder, made.workspace), spec, tokenizer).wrong("block")
    assert item.check == "targets fit max_target_tokens"


@pytest.mark.parametrize(("others", "outcome"), [(0, "warn"), (2, "warn"), (40, "ok")])
def test_a_text_task_with_one_target_for_nearly_all_rows_warns(made: MadeDomain, others: int, outcome: str) -> None:
    rows = [{"input": f"sentence number {n}", "target": f"other {n}" if n < others else "same"} for n in range(400)]
    made.write("rows.jsonl", rows)
    report = _report(made, PAIRS)
    assert report.outcome == outcome
    assert [item.check for item in report.wrong("warn")] == ["no target takes all"] * (outcome == "warn")


def test_targets_that_cannot_be_learnt_block_and_are_not_told_of_where_there_are_none(
    made: MadeDomain, tokenizer: Any
) -> None:
    made.write("rows.jsonl", [{"input": f"yes no {n}", "target": f"unheard {n}"} for n in range(200)])
    spec = made.spec(PAIRS)
    report = validate(ingest(spec, made.folder, made.workspace), spec, tokenizer)
    (item,) = (item for item in report.wrong("block") if item.check == "targets can be learnt")
    assert "training targets none comes back" in item.text
    contradicting = [{"input": "yes no", "target": ("yes", "no")[n % 2]} for n in range(200)]
    made.write("rows.jsonl", contradicting)
    spec = made.spec()
    dataset = ingest(spec, made.folder, made.workspace)
    assert dataset.counts("train") == {"task": 0}
    wrong = {item.check for item in validate(dataset, spec, tokenizer).wrong("block")}
    assert "enough rows" in wrong
    assert "targets can be learnt" not in wrong
