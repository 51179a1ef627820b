from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from alter_core.inference import prefixes
from alter_core.inference.decoding import Answer, Decoder, Request
from alter_core.inference.labels import FREE, LabelTries
from alter_core.inference.predict import Predictor
from alter_core.mta import MTAConfig, MTAModel, inject
from alter_core.prompts import encode_prefix, encode_prompts
from alter_core.spec import DomainSpec
from tests.inference.conftest import INPUTS, Subject
from tests.inference.test_together import DECODERS
from tests.mta.conftest import TASKS, stir, tiny

END = 2
HEADS = {"intent": list(range(5, 15)), "nli": [7, 8, 9], "title": []}
RESTS = [[20], [21, 22, 23], [24, 25, 26, 27, 28], [29, 30]]


def mta_of(architecture: str) -> MTAModel:
    mta = inject(tiny(architecture), MTAConfig(layers="last_1", adapter="lora", rank=2), TASKS)
    stir(mta)
    return mta


def decoder_of(mta: MTAModel) -> tuple[Decoder, int]:
    """And the root of its labels."""
    tries = LabelTries({"nli": [[20, 21, END], [20, 22, END], [23, 24, END]]})
    return Decoder(mta.model, tries, [END], pad=0, routing=mta.routing), tries.roots["nli"]


def rows(root: int, known: bool) -> list[Request]:
    """Three tasks, of which one writes labels and one has no instruction, and a row that begins as no other."""
    found = [
        Request(task, [*head, *rest], root if task == "nli" else FREE, 5, len(head) if known else 0)
        for rest in RESTS
        for task, head in HEADS.items()
    ]
    return [*found, Request("intent", [40, 41, 42], FREE, 5)]


def alike(found: list[Answer], wanted: list[Answer]) -> None:
    assert [(answer.ids, answer.label) for answer in found] == [(answer.ids, answer.label) for answer in wanted]
    assert [answer.score for answer in found] == pytest.approx([answer.score for answer in wanted], rel=1e-4)


@pytest.mark.parametrize("architecture", DECODERS)
def test_answers_are_those_of_prompts_that_are_read_whole_in_any_batch_and_again(architecture: str) -> None:
    mta = mta_of(architecture)
    decoder, root = decoder_of(mta)
    wanted = decoder_of(mta)[0].answer(rows(root, known=False))
    assert len({answer.ids for answer in wanted}) > 4
    asked = rows(root, known=True)
    for size in (len(asked), 1, 5):
        alike([a for i in range(0, len(asked), size) for a in decoder.answer(asked[i : i + size])], wanted)


def test_a_prefix_is_read_once_for_all_batches() -> None:
    mta = mta_of("llama")
    decoder, root = decoder_of(mta)
    seen: list[list[int]] = []
    mta.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].flatten().tolist()), with_kwargs=True
    )
    for _ in range(2):
        for row in rows(root, known=True)[:3]:
            decoder.answer([row])
    assert [ids for ids in seen if ids in HEADS.values()] == [HEADS["intent"], HEADS["nli"]]
    assert not any(ids[: len(head)] == head for ids in seen for head in HEADS.values() if 0 < len(head) < len(ids))


@pytest.mark.parametrize("architecture", DECODERS)
def test_in_bf16_padded_rows_of_many_tasks_get_the_probabilities_of_rows_that_are_read_alone(architecture: str) -> None:
    mta = mta_of(architecture)
    for parameter in mta.model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    kernel = mta.model.config._attn_implementation
    decoder, root = decoder_of(mta)
    asked = [replace(row, max_new_tokens=1) for row in rows(root, known=True)]
    alone = [decoder_of(mta)[0].answer([replace(row, prefix=0)])[0] for row in asked]
    found = decoder.answer(asked)
    assert [answer.score for answer in found] == pytest.approx([answer.score for answer in alone], abs=0.02)
    assert mta.model.config._attn_implementation == kernel


def replaced(mta: MTAModel) -> None:
    embedding = mta.model.get_input_embeddings()
    embedding.weight.data = embedding.weight.data.flip(0)


def trained(mta: MTAModel) -> None:
    optimiser = torch.optim.SGD(mta.model.parameters(), lr=0.5)
    with mta.routing(["intent"]):
        mta.model(input_ids=torch.tensor([HEADS["intent"]])).logits.square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize(
    "change",
    [replaced, trained, lambda mta: mta.use_adapters(task=False, shared=False), lambda mta: mta.model.double()],
    ids=["replaced", "trained", "adapters off", "other dtype"],
)
def test_a_changed_model_reads_its_prefixes_again(change: Callable[[MTAModel], object]) -> None:
    mta = inject(tiny("llama"), MTAConfig(layers="all", adapter="lora", rank=2), TASKS)
    stir(mta)
    decoder, root = decoder_of(mta)
    before = decoder.answer(rows(root, known=True))
    change(mta)
    found = decoder.answer(rows(root, known=True))
    alike(found, decoder_of(mta)[0].answer(rows(root, known=False)))
    assert found != before


def test_memory_is_bounded_and_holds_the_tasks_that_were_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    mta = mta_of("llama")
    decoder, root = decoder_of(mta)
    asked = rows(root, known=True)
    wanted = decoder.answer(asked)
    monkeypatch.setattr(prefixes, "KEPT_BYTES", 2 * 2 * 8 * 4 * len(HEADS["intent"]))  # blocks, sides, width, bytes
    read: list[int] = []
    mta.model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"].shape[1]), with_kwargs=True)
    for place, again in ((1, False), (0, True), (0, False), (1, True)):
        read.clear()
        alike(decoder.answer(asked[place : place + 1]), wanted[place : place + 1])
        assert (len(HEADS[asked[place].task]) == read[0]) is again


@pytest.mark.parametrize("prompt_format", [1, 2])
@pytest.mark.parametrize("instruction", ["Say what it is about.", "", "Answer with <end> or"])
def test_the_prefix_of_a_task_is_its_instruction_in_every_format(
    tokenizer: PreTrainedTokenizerFast,
    closing_tokenizer: PreTrainedTokenizerFast,
    spec: DomainSpec,
    prompt_format: int,
    instruction: str,
) -> None:
    task = spec.task("topic").model_copy(update={"instruction": instruction})
    for own in (tokenizer, closing_tokenizer):
        prefix = encode_prefix(own, task, prompt_format)
        prompts, _ = encode_prompts(own, task, [*INPUTS, "<end> is spelt out"], None, prompt_format)
        assert own.decode(prefix).strip() == instruction
        assert all(prompt[: len(prefix)] == prefix for prompt in prompts)


@pytest.mark.parametrize("subject", ["llama mta"], indirect=True)
def test_predictions_of_single_rows_and_of_the_next_batch_are_those_of_prompts_that_are_read_whole(
    subject: Subject, spec: DomainSpec, mixed_rows: tuple[list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, mta = subject
    predictor = Predictor(model, tokenizer, spec, mta)
    found = predictor.predict(*mixed_rows)
    alone = [predictor.predict([task], [text])[0] for task, text in zip(*mixed_rows, strict=True)]
    assert any(request.prefix for request in predictor.plan(*mixed_rows).requests)
    monkeypatch.setattr("alter_core.inference.plan.encode_prefix", lambda *_: [])
    whole = Predictor(model, tokenizer, spec, mta).predict(*mixed_rows)
    for those in (found, alone):
        assert [one.text for one in those] == [one.text for one in whole]
        assert [one.score for one in those] == pytest.approx([one.score for one in whole], rel=1e-4)


@pytest.mark.parametrize("subject", ["llama mta"], indirect=True)
def test_a_model_in_training_mode_reads_its_prefixes_again_though_its_data_were_written_past_torch(
    subject: Subject, spec: DomainSpec, mixed_rows: tuple[list[str], list[str]]
) -> None:
    model, tokenizer, mta = subject
    predictor = Predictor(model, tokenizer, spec, mta)
    before = predictor.predict(*mixed_rows)
    model.train()
    model.get_input_embeddings().weight.data.mul_(-1)
    found = predictor.predict(*mixed_rows)
    assert found == Predictor(model, tokenizer, spec, mta).predict(*mixed_rows) != before
