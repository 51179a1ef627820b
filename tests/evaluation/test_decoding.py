import pytest
import torch

from alter_core.evaluation.decoding import Decoder, Request
from alter_core.evaluation.labels import FREE, LabelTries
from tests.evaluation import naive
from tests.mta.conftest import MODELS

END = 2
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [13], [14, 15, 16]]


@pytest.mark.parametrize("architecture", MODELS)
def test_every_architecture_decodes_padded_batches_as_single_rows_without_a_cache(architecture: str) -> None:
    torch.manual_seed(0)
    model = MODELS[architecture]().eval()
    labels = [[20, 21, END], [20, 22, END], [23, 24, END]]
    tries = LabelTries({"label": labels})
    requests = [
        request
        for prompt in PROMPTS
        for request in (Request("free", prompt, FREE, 6), Request("label", prompt, tries.roots["label"], 3))
    ]
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
