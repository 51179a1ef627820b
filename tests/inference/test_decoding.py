from typing import Any

import pytest
import torch
from transformers import MistralForCausalLM

from alter_core.inference import reading
from alter_core.inference.decoding import Decoder, Request
from alter_core.inference.labels import FREE, LabelTries
from tests.inference import naive
from tests.mta.conftest import MODELS

END = 2
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [13], [14, 15, 16]]
HEAD = list(range(5, 15))  # as an instruction does, it opens every prompt of a task
LIKE = [[*HEAD, *rest] for rest in ([20], [21, 22, 23], [24, 25, 26, 27, 28], [29, 30], [HEAD[0], HEAD[1], 31])]


def asked(task: str, prompt: list[int], root: int, most: int) -> Request:
    """A row of a task whose prompts begin with HEAD, but for some."""
    return Request(task, prompt, root, most, prefix=len(HEAD) if prompt[: len(HEAD)] == HEAD else 0)


@pytest.mark.parametrize("prompts", [PROMPTS, LIKE], ids=["unlike", "like"])
@pytest.mark.parametrize("architecture", MODELS)
def test_every_architecture_decodes_padded_batches_as_single_rows_without_a_cache(
    architecture: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reading.PART_TOKENS, "cpu", 40)  # several parts of each task
    torch.manual_seed(0)
    model = MODELS[architecture]().eval()
    labels = [[20, 21, END], [20, 22, END], [23, 24, END]]
    tries = LabelTries({"label": labels})
    root = tries.roots["label"]
    requests = [asked("free", prompt, FREE, 6) for prompt in prompts]
    requests += [asked("label", prompt, root, 3) for prompt in prompts]
    answers = Decoder(model, tries, [END], pad=0).answer(requests)
    for request, answer in zip(requests, answers, strict=True):
        written: list[int] = []
        left = labels
        while (len(left) > 1) if request.root else (len(written) < 6 and END not in written):
            probabilities = naive.next_token(model, None, request.task, list(request.prompt), written)
            allowed = sorted({ids[len(written)] for ids in left}) if request.root else list(range(len(probabilities)))
            written.append(max(allowed, key=lambda token: float(probabilities[token])))
            left = [ids for ids in left if ids[: len(written)] == written]
        assert list(answer.ids) == written
        assert (answer.label is None) == (request.root == FREE)
        if request.root:
            assert labels[answer.label or 0] == left[0]


def test_rows_with_different_limits_share_a_batch() -> None:
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    decoder = Decoder(model, LabelTries({}), [], pad=0)
    short, long = decoder.answer([Request("a", [5, 6], FREE, 2), Request("b", [5, 6], FREE, 9)])
    assert (len(short.ids), len(long.ids)) == (2, 9)
    assert long.ids[:2] == short.ids


def windowed(window: int | None) -> Any:
    """A model whose answers depend on all that it sees."""
    torch.manual_seed(0)
    config = MODELS["mistral"]().config
    config.sliding_window = window
    model = MistralForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("window", [4, 12, 18])
def test_a_window_of_attention_shorter_than_rows_sees_what_it_sees_in_a_single_row(window: int) -> None:
    requests = [asked("free", prompt, FREE, 6) for prompt in LIKE]
    model = windowed(window)
    answers = Decoder(model, LabelTries({}), [END], pad=0).answer(requests)
    for request, answer in zip(requests, answers, strict=True):
        written: list[int] = []
        while len(written) < 6 and END not in written:
            written.append(int(naive.next_token(model, None, "free", list(request.prompt), written).argmax()))
        assert list(answer.ids) == written
    assert answers != Decoder(windowed(None), LabelTries({}), [END], pad=0).answer(requests)  # the window matters
