"""Prompts of format 2: joining the parts as text gives the ids that are taught, for tokenizers of every kind."""

import random
from typing import Any

import pytest

from alter_core.prompts import (
    answer_lengths,
    answer_text,
    decode_answers,
    encode_prompts,
    encode_targets,
    format_of,
    measure_prompts,
    prompt_text,
)
from alter_core.spec import TaskSpec
from tests.backbones import TOKENIZERS


def task(**more: Any) -> TaskSpec:
    given = {"name": "t", "type": "generation", "source": {"path": "r"}, **more}
    return TaskSpec.model_validate(given)


INSTRUCTIONS = (None, "", "Translate. ", "Say it:\n- short\n- in English")
PIECES = (
    "red",
    " ",
    "  ",
    "\n",
    "\n\n",
    "ball.",
    "Answer:",
    "naïve",
    "日本語",
    "👍🏽",
    "10.5",
    "(x)",
    "<b>",
    "\t",
    "_",
    "é",
)


def texts(seed: int, count: int = 40) -> list[str]:
    draw = random.Random(seed)
    made = ["".join(draw.choices(PIECES, k=draw.randint(1, 12))).strip() for _ in range(count)]
    return ["the red ball is in the hall", "a", *(text or "x" for text in made)]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_the_prompt_as_one_text_gives_the_ids_that_are_taught(tokenizer: Any, instruction: str | None) -> None:
    own = task(instruction=instruction)
    inputs = texts(1)
    prompts, cut = encode_prompts(tokenizer, own, inputs)
    assert prompts == [tokenizer(prompt_text(own, text))["input_ids"] for text in inputs]
    assert not any(cut)


def test_an_answer_continues_the_text_of_its_prompt(tokenizer: Any) -> None:
    own = task()
    inputs, targets = texts(2), texts(3)
    for text, target, ids in zip(inputs, targets, encode_targets(tokenizer, own, targets), strict=True):
        prompt = tokenizer(prompt_text(own, text), add_special_tokens=False)["input_ids"]
        whole = tokenizer(prompt_text(own, text) + answer_text(target), add_special_tokens=False)["input_ids"]
        assert [*whole, tokenizer.eos_token_id] == [*prompt, *ids]


@pytest.mark.parametrize("limit", [8, 9, 13, 21])
def test_a_long_input_is_cut_at_its_end_and_nothing_else_is(tokenizer: Any, limit: int) -> None:
    own = task(max_input_tokens=limit)
    inputs = [" ".join(texts(seed, 8)) for seed in range(12)]
    lengths = [length for length, _ in measure_prompts(tokenizer, own, inputs)]
    prompts, cut = encode_prompts(tokenizer, own, inputs)
    around = len(tokenizer(prompt_text(own, ""))["input_ids"])
    for text, prompt, length, is_cut in zip(inputs, prompts, lengths, cut, strict=True):
        assert is_cut == (length > limit)
        kept = next(
            (text[:end].rstrip() for end in range(len(text), -1, -1)
             if tokenizer(prompt_text(own, text[:end].rstrip()))["input_ids"] == prompt), None
        )  # fmt: skip
        assert kept is not None, "the prompt is not that of a beginning of its input"
        assert len(prompt) <= limit + around + 2
        assert is_cut or kept == text.rstrip()


def test_a_prompt_has_room_for_its_answer_whatever_the_input(tokenizer: Any) -> None:
    own = task()
    inputs = [*texts(4), " ".join(texts(5))]
    around = len(tokenizer(prompt_text(own, ""))["input_ids"])
    for room in (around + 3, around + 11, around + 40):
        prompts, cut = encode_prompts(tokenizer, own, inputs, longest=room)
        assert max(map(len, prompts)) <= room
        whole, _ = encode_prompts(tokenizer, own, inputs)
        assert [not is_cut for is_cut in cut] == [a == b for a, b in zip(prompts, whole, strict=True)]


def test_special_tokens_in_an_input_or_a_target_stay_characters(tokenizer: Any) -> None:
    own = task()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    spelt = [token for token in tokenizer.all_special_tokens if token != tokenizer.unk_token]
    inputs = [f"where {token} is {token}{token} it {token}" for token in spelt]
    bare = [i for i in tokenizer(prompt_text(own, "x"))["input_ids"] if i in special]
    prompts, _ = encode_prompts(tokenizer, own, inputs)
    short, cut = encode_prompts(tokenizer, own.model_copy(update={"max_input_tokens": 8}), inputs)
    for prompt in (*prompts, *short):
        assert [i for i in prompt if i in special] == bare
    assert all(cut)
    for ids in encode_targets(tokenizer, own, inputs):
        assert not special & set(ids[:-1])
        assert ids[-1] == tokenizer.eos_token_id


def test_an_instruction_may_hold_special_tokens_and_an_input_beside_it_may_not(tokenizer: Any) -> None:
    end = tokenizer.eos_token
    own = task(instruction=f"{end} Write.")
    [plain, evil], _ = encode_prompts(tokenizer, own, ["the ball", f"the {end} ball"])
    assert plain == tokenizer(prompt_text(own, "the ball"))["input_ids"]
    assert plain.count(tokenizer.eos_token_id) == evil.count(tokenizer.eos_token_id)


def test_what_is_counted_is_what_is_taught(tokenizer: Any) -> None:
    targets = texts(6)
    own = task(max_target_tokens=5)
    for length, ids in zip(answer_lengths(tokenizer, targets), encode_targets(tokenizer, own, targets), strict=True):
        assert len(ids) - 1 == min(length, 5)


def test_format_one_is_what_it_was() -> None:
    tokenizer = TOKENIZERS["byte level that closes"]()
    own = task(max_input_tokens=8)

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    text = "the red ball is in the garden of the office"
    [prompt], [cut] = encode_prompts(tokenizer, own, [text], prompt_format=1)
    assert prompt == [*ids("Write the answer.\n\n"), *ids(text)[:8], *ids("\n\nAnswer:"), tokenizer.eos_token_id]
    assert cut
    assert encode_targets(tokenizer, own, ["red"], 1) == [[*ids(" red"), tokenizer.eos_token_id]]
    assert decode_answers(tokenizer, encode_targets(tokenizer, own, ["red"], 1)) == ["red"]


def test_a_bundle_that_names_no_format_is_of_the_first() -> None:
    assert format_of({}) == 1
    assert format_of({"prompt_format": 2}) == 2
    with pytest.raises(ValueError, match="prompt format 3; this version knows 1, 2"):
        format_of({"prompt_format": 3})
