from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from alter_core.errors import BundleError, DataError, SpecError, TaskIdError
from alter_core.inference.decoding import Answer, Request
from alter_core.inference.predict import Predictor
from alter_core.inference.recorded_spec import recorded_spec
from alter_core.mta.bundle import save_bundle
from alter_core.prompts import decode_answers, encode_prompts, encode_targets
from alter_core.spec import DomainSpec
from tests.inference import naive
from tests.inference.conftest import Subject

Rows = tuple[list[str], list[str]]


@pytest.fixture
def predictor(subject: Subject, spec: DomainSpec) -> Predictor:
    model, tokenizer, mta = subject
    return Predictor(model, tokenizer, spec, mta)


def test_mixed_batches_answer_as_single_rows_without_a_cache_do(
    predictor: Predictor, subject: Subject, spec: DomainSpec, mixed_rows: Rows
) -> None:
    model, tokenizer, mta = subject
    found = predictor.predict(*mixed_rows)
    wanted = [naive.answer(model, tokenizer, mta, spec, task, text) for task, text in zip(*mixed_rows, strict=True)]
    assert [p.text for p in found] == [text for text, _ in wanted]
    assert [p.score for p in found] == pytest.approx([score for _, score in wanted], rel=1e-4)


@pytest.mark.parametrize("subject", ["llama"], indirect=True)
def test_free_text_equals_greedy_generate(subject: Subject, spec: DomainSpec) -> None:
    model, own, _ = subject
    task = spec.task("title")
    [prompt], _ = naive.encode_prompts(own, task, ["my card has not come yet"])
    wanted = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)[
        0, len(prompt) :
    ]
    [found] = Predictor(model, own, spec, None).predict(["title"], ["my card has not come yet"])
    assert found.text == own.decode(wanted, skip_special_tokens=True).strip()


@pytest.mark.parametrize("tokens_per_batch", [1, 200, 100_000])
def test_the_size_of_batches_changes_no_answer(
    subject: Subject, spec: DomainSpec, mixed_rows: Rows, tokens_per_batch: int
) -> None:
    model, tokenizer, mta = subject
    found = Predictor(model, tokenizer, spec, mta, tokens_per_batch=tokens_per_batch).predict(*mixed_rows)
    wanted = Predictor(model, tokenizer, spec, mta).predict(*mixed_rows)
    assert [p.text for p in found] == [p.text for p in wanted]
    assert [p.score for p in found] == pytest.approx([p.score for p in wanted], rel=1e-4)


def test_only_labels_come_out_of_label_tasks_and_their_score_is_a_probability(
    predictor: Predictor, spec: DomainSpec, mixed_rows: Rows
) -> None:
    for task, prediction in zip(mixed_rows[0], predictor.predict(*mixed_rows), strict=True):
        if spec.task(task).labels:
            assert prediction.text in (spec.task(task).labels or ())
        assert 0 < prediction.score <= 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_temperature_divides_the_logits_of_labels_and_changes_no_answer(
    predictor: Predictor, subject: Subject, spec: DomainSpec, mixed_rows: Rows, temperature: float
) -> None:
    model, tokenizer, mta = subject
    before = predictor.predict(*mixed_rows)
    predictor.temperatures = {"topic": temperature, "fits": temperature}
    after = predictor.predict(*mixed_rows)
    assert [(p.text, p.behind) for p in after] == [(p.text, p.behind) for p in before]
    for task, text, old, new in zip(*mixed_rows, before, after, strict=True):
        if spec.task(task).labels:
            _, wanted = naive.answer(model, tokenizer, mta, spec, task, text, temperature)
            assert new.score == pytest.approx(wanted, rel=1e-4)
        else:
            assert (new.score, new.behind) == (old.score, ())


def test_answers_below_the_bound_of_their_task_abstain_and_are_given_all_the_same(
    predictor: Predictor, mixed_rows: Rows
) -> None:
    before = predictor.predict(*mixed_rows)
    assert not any(p.abstain for p in before)
    bound = sorted(p.score for task, p in zip(mixed_rows[0], before, strict=True) if task == "topic")[2]
    predictor.abstain_below = {"topic": bound}
    after = predictor.predict(*mixed_rows)
    assert [p.text for p in after] == [p.text for p in before]
    assert [p.abstain for p in after] == [
        task == "topic" and p.score < bound for task, p in zip(mixed_rows[0], before, strict=True)
    ]
    assert sum(p.abstain for p in after) == 2


def test_inputs_over_the_limit_are_cut_and_said_to_be(predictor: Predictor) -> None:
    short, long, elsewhere = predictor.predict(
        ["topic", "topic", "fits"], ["card", "where is it now? " * 9, "where is it now? " * 9]
    )
    assert (short.truncated, long.truncated, elsewhere.truncated) == (False, True, False)


def test_progress_counts_every_row_to_the_end(predictor: Predictor, mixed_rows: Rows) -> None:
    seen: list[tuple[int, int]] = []
    predictor.predict(*mixed_rows, progress=lambda done, total: seen.append((done, total)))
    rows = len(mixed_rows[0])
    assert seen[-1] == (rows, rows)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_no_rows_give_no_predictions(predictor: Predictor) -> None:
    assert predictor.predict([], []) == []


def test_unknown_tasks_are_named_with_the_known_ones(predictor: Predictor) -> None:
    with pytest.raises(TaskIdError, match=r"topic, fits, where, title(.|\n)*row 1: 'topics'"):
        predictor.predict(["topic", "topics"], ["card", "card"])


def test_rows_without_text_are_named(predictor: Predictor) -> None:
    with pytest.raises(DataError) as caught:
        predictor.predict(["topic"] * 4, ["card", "  ", None, 3])  # type: ignore[list-item]
    assert caught.value.problems == ("row 1: is empty", "row 2: is null", "row 3: is the number 3")


def test_damaged_texts_are_named_as_ingestion_names_them(predictor: Predictor) -> None:
    with pytest.raises(DataError) as caught:
        predictor.predict(["topic"] * 3, ["card", "ca\0rd", "caf\udce9"])
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "row 1: holds a NUL character",
        "row 2: holds half of a character (a lone surrogate)",
    ]


def test_untidy_inputs_are_answered_as_the_tidy_ones_that_were_learnt_from(predictor: Predictor) -> None:
    tidy = ["my card has\nnot come yet", "the café took the money twice"]
    untidy = ["  my card\u00a0has\r\nnot \t come yet\n", "the cafe\u0301 took  the money twice"]
    assert predictor.predict(["title"] * 2, untidy) == predictor.predict(["title"] * 2, tidy)


def test_a_special_token_that_somebody_spells_out_is_read_as_its_characters(
    tokenizer: PreTrainedTokenizerFast, spec: DomainSpec
) -> None:
    [prompt], _ = encode_prompts(tokenizer, spec.task("title"), ["where <end> is it"])
    [target] = encode_targets(tokenizer, spec.task("title"), ["no <end>"])
    assert tokenizer.eos_token_id not in prompt
    assert target.index(tokenizer.eos_token_id) == len(target) - 1
    assert decode_answers(tokenizer, [target]) == ["no <end>"]
    asked = spec.task("title").model_copy(update={"instruction": "<end> Say it."})
    assert encode_prompts(tokenizer, asked, ["card"])[0][0][0] == tokenizer.eos_token_id


def test_threads_take_turns_and_get_their_own_answers(
    predictor: Predictor, mixed_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = predictor.predict(*mixed_rows)
    inside, most, answer = [0], [0], predictor._decoders[0].answer

    def counted(requests: Sequence[Request], *more: Any) -> list[Answer]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        found = answer(requests, *more)
        inside[0] -= 1
        return found

    monkeypatch.setattr(predictor._decoders[0], "answer", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: predictor.predict(*mixed_rows), range(4)))
    assert found == [wanted] * 4
    assert most == [1]


def test_tasks_and_inputs_of_different_number_are_refused(predictor: Predictor) -> None:
    with pytest.raises(TaskIdError, match="1 task names were given for 2 inputs"):
        predictor.predict(["topic"], ["card", "card"])


def test_a_label_task_without_labels_is_refused(subject: Subject, spec: DomainSpec) -> None:
    bare = tuple(task.model_copy(update={"labels": None}) for task in spec.tasks)
    with pytest.raises(SpecError, match="topic, fits"):
        Predictor(subject[0], subject[1], spec.model_copy(update={"tasks": bare}), subject[2])


def test_predicting_leaves_a_model_in_training_mode_as_it_was(predictor: Predictor) -> None:
    predictor.model.train()
    frozen = next(module for module in predictor.model.modules() if isinstance(module, nn.ModuleList))[0].eval()
    before = [module.training for module in predictor.model.modules()]
    predictor.predict(["topic"], ["card"])
    assert [module.training for module in predictor.model.modules()] == before
    assert predictor.model.training
    assert not frozen.training


@pytest.mark.parametrize("subject", ["llama mta", "t5 mta"], indirect=True)
def test_a_bundle_answers_as_the_model_it_was_saved_from(
    subject: Subject, spec: DomainSpec, mixed_rows: Rows, tmp_path: Path
) -> None:
    model, tokenizer, mta = subject
    assert mta is not None
    save_bundle(mta, tokenizer, tmp_path / "bundle", {"spec": spec.model_dump(mode="json")})
    loaded = Predictor.from_bundle(tmp_path / "bundle")
    assert loaded.predict(*mixed_rows) == Predictor(model, tokenizer, spec, mta).predict(*mixed_rows)


@pytest.mark.parametrize("subject", ["llama"], indirect=True)
def test_an_input_that_the_backbone_has_no_room_for_is_cut_and_stops_no_other(
    subject: Subject, spec: DomainSpec
) -> None:
    model, tokenizer, mta = subject
    wide = tuple(task.model_copy(update={"max_input_tokens": 300}) for task in spec.tasks)
    predictor = Predictor(model, tokenizer, spec.model_copy(update={"tasks": wide}), mta)
    short, long, free = predictor.predict(["topic", "topic", "title"], ["card", *["where is it now? " * 40] * 2])
    assert [short.truncated, long.truncated, free.truncated] == [False, True, True]
    (alone,) = predictor.predict(["topic"], ["card"])
    assert (short.text, short.truncated) == (alone.text, alone.truncated)
    assert short.score == pytest.approx(alone.score, rel=1e-4)  # another batch rounds otherwise


@pytest.mark.parametrize("subject", ["llama"], indirect=True)
def test_an_instruction_that_the_backbone_has_no_room_for_is_refused(subject: Subject, spec: DomainSpec) -> None:
    model, tokenizer, mta = subject
    wordy = tuple(task.model_copy(update={"instruction": "choose the label " * 60}) for task in spec.tasks)
    predictor = Predictor(model, tokenizer, spec.model_copy(update={"tasks": wordy}), mta)
    with pytest.raises(SpecError, match=r"task topic: .* at most 256: .* or shorten its instruction"):
        predictor.predict(["topic"], ["card"])


@pytest.mark.parametrize("subject", ["llama mta"], indirect=True)
def test_a_precision_is_taken_by_the_backbone_alone(subject: Subject, spec: DomainSpec) -> None:
    model, tokenizer, mta = subject
    assert mta is not None
    predictor = Predictor(model, tokenizer, spec, mta, dtype=torch.bfloat16)
    kinds = {part: {p.dtype for _, p in named} for part, named in mta.parameters_by_part().items()}
    assert kinds["backbone"] == {torch.bfloat16}
    assert kinds["task_adapters"] == {torch.float32}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert predictor.predict(["topic"], ["card"])[0].text in (spec.task("topic").labels or ())


def test_a_bundle_outlives_settings_that_specs_no_longer_have(spec: DomainSpec) -> None:
    written = spec.model_dump(mode="json")
    written["warm"] = True
    written["stage_one"]["heat"] = 3
    written["tasks"][1]["source"]["colour"] = "red"
    written["stage_one"]["schedule"] = "a shape of the rate that was given up"
    assert recorded_spec({"spec": written}, Path("bundle")) == spec


def test_a_bundle_whose_spec_says_something_else_by_now_is_refused_with_the_place(spec: DomainSpec) -> None:
    written = spec.model_dump(mode="json")
    written["tasks"][0]["type"] = "divination"
    with pytest.raises(BundleError, match=r"another version of this code(.|\n)*tasks > 0 > type"):
        recorded_spec({"spec": written}, Path("bundle"))


def test_a_row_is_written_as_bundles_have_learnt_it(
    tokenizer: PreTrainedTokenizerFast, closing_tokenizer: PreTrainedTokenizerFast, spec: DomainSpec
) -> None:
    task = spec.task("topic").model_copy(update={"instruction": "Say it.", "max_input_tokens": 2})
    [prompt], [cut] = encode_prompts(tokenizer, task, ["my card has not come"])
    first = tokenizer.decode(tokenizer("my card has not come")["input_ids"][:2])
    assert (tokenizer.decode(prompt), cut) == (f"Say it.\n\n{first}\n\nAnswer:", True)
    assert tokenizer.decode(encode_targets(tokenizer, task, ["card"])[0]) == " card<end>"
    bare = task.model_copy(update={"instruction": ""})
    assert tokenizer.decode(encode_prompts(tokenizer, bare, ["my"])[0][0]) == "my\n\nAnswer:"
    assert closing_tokenizer.decode(encode_prompts(closing_tokenizer, bare, ["my"])[0][0]) == "my\n\nAnswer:<end>"
