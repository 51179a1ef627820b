import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from alter_core.inference.decoding import Decoder
from alter_core.inference.labels import FREE, LabelTries
from alter_core.inference.predict import Predictor
from alter_core.inference.together import Together
from alter_core.inference.trunk import Trunk
from alter_core.mta import MTAConfig, inject
from alter_core.mta.architectures import find_architecture, find_blocks
from alter_core.spec import DomainSpec
from tests.inference.conftest import tiny_llama
from tests.inference.test_decoding import END, LIKE, asked
from tests.mta.conftest import MODELS

Rows = tuple[list[str], list[str]]
DECODERS = [name for name, make in MODELS.items() if not make().config.is_encoder_decoder]


def disturbed(model: Any, block: int) -> Any:
    """A copy with other weights from `block` up."""
    torch.manual_seed(1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for part in find_blocks(other, find_architecture(other))["decoder"][block:]:
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return other


@pytest.mark.parametrize("architecture", DECODERS)
def test_a_model_that_goes_on_from_another_s_trunk_answers_as_alone(architecture: str) -> None:
    torch.manual_seed(0)
    model = MODELS[architecture]().eval()
    other = disturbed(model, 1)
    tries = LabelTries({"label": [[20, 21, END], [20, 22, END], [23, 24, END]]})
    requests = [asked("free", prompt, FREE, 6) for prompt in LIKE]
    requests += [asked("label", prompt, tries.roots["label"], 3) for prompt in LIKE]
    trunk = Trunk(1)
    answers = [
        Decoder(each, tries, [END], pad=0).answer(
            requests, (trunk, find_blocks(each, find_architecture(each))["decoder"])
        )
        for each in (model, other)
    ]
    assert answers == [Decoder(each, tries, [END], pad=0).answer(requests) for each in (model, other)]
    assert answers[0] != answers[1]


def make_predictors(tokenizer: PreTrainedTokenizerFast, spec: DomainSpec) -> list[Predictor]:
    """The plain backbone, and two models with adapters in its last block."""
    torch.manual_seed(0)
    backbone = tiny_llama(len(tokenizer))
    found = [Predictor(backbone, tokenizer, spec, None)]
    for _ in range(2):
        mta = inject(copy.deepcopy(backbone), MTAConfig(layers="last_1"), spec.task_names)
        with torch.no_grad():
            for parameter in mta.layers[0].tasks.parameters():
                parameter.normal_(std=0.3)
        found.append(Predictor(mta.model, tokenizer, spec, mta))
    return found


def test_models_with_a_common_trunk_run_it_once(
    tokenizer: PreTrainedTokenizerFast, spec: DomainSpec, mixed_rows: Rows
) -> None:
    wanted = [predictor.predict(*mixed_rows) for predictor in make_predictors(tokenizer, spec)]
    predictors = make_predictors(tokenizer, spec)
    read: list[int] = []

    def count(_block: Any, args: Sequence[torch.Tensor], **_: Any) -> None:
        read.append(args[0].shape[0] * args[0].shape[1] if args[0].shape[1] > 1 else 0)

    together = Together(predictors)
    for predictor in predictors:
        predictor.predict(*mixed_rows)  # each model reads its tasks' prefixes itself
        predictor.model.model.layers[0].register_forward_pre_hook(count)
    told: list[int] = []
    found = together.predict(predictors, *mixed_rows, told.append)
    assert found == wanted
    assert sum(told) == 3 * len(mixed_rows[0])
    once = sum(read)
    read.clear()
    predictors[1].predict(*mixed_rows)
    assert once == sum(read)


def test_equal_weights_are_held_once(tokenizer: PreTrainedTokenizerFast, spec: DomainSpec) -> None:
    predictors = make_predictors(tokenizer, spec)
    Together(predictors)
    places = [p.model.get_input_embeddings().weight.data_ptr() for p in predictors]
    assert len(set(places)) == 1


def test_models_that_differ_below_answer_each_for_itself(
    tokenizer: PreTrainedTokenizerFast, spec: DomainSpec, mixed_rows: Rows
) -> None:
    predictors = make_predictors(tokenizer, spec)[:2]
    with torch.no_grad():
        predictors[1].model.get_input_embeddings().weight.mul_(1.5)
    wanted = [predictor.predict(*mixed_rows) for predictor in predictors]
    assert Together(predictors).predict(predictors, *mixed_rows, lambda _: None) == wanted
