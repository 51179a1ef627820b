"""Several models answer the same rows: weights that are equal are held once, and what the models have in common of
reading prompts is computed once. A model answers as it does alone, to the bit.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import Any

import torch

from alter_core.inference.decoder_only import has_windows
from alter_core.inference.predict import Predictor
from alter_core.inference.prediction import Prediction
from alter_core.inference.trunk import Trunk
from alter_core.memory import release_free_memory
from alter_core.mta.modes import evaluating
from alter_core.mta.replicas import Threads

Progress = Callable[[int], None]


class Together:
    """Predictors whose models may have a trunk in common, as a backbone and what was trained from it have."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self.predictors = list(predictors)
        first, *others = self.predictors
        self._below = min((_alike(first, other) for other in others), default=0)
        """Blocks below this number are the same in all models."""
        release_free_memory(now=True)  # equal weights have been there as often as there are models

    def predict(
        self, asked: Sequence[Predictor], tasks: Sequence[str], inputs: Sequence[str], progress: Progress
    ) -> list[list[Prediction]]:
        """Predictions of each of `asked`, of these predictors, as `Predictor.predict` gives them.

        progress: called with the rows that were answered since the last call, over all of `asked`.
        Raises what `Predictor.predict` does.
        """
        plans = [predictor.plan(tasks, inputs) for predictor in asked]
        shares = self._below > 0 and len(asked) > 1 and all(plan.requests == plans[0].requests for plan in plans)
        found: list[dict[int, Prediction]] = [{} for _ in asked]
        with ExitStack() as stack:
            for predictor in asked:
                stack.enter_context(evaluating(predictor.model))
            if not shares:
                for predictor, plan, own in zip(asked, plans, found, strict=True):
                    for some in predictor.answers(plan):
                        own |= some
                        progress(len(some))
            else:
                batches = asked[0].batches(plans[0], share=0.5)  # the trunk's keys and values stay beside
                threads = Threads(min(predictor.ready(batches) for predictor in asked))

                def answer(rows: list[int], number: int) -> list[dict[int, Prediction]]:
                    """Of all that are asked."""
                    trunk = Trunk(self._below)
                    return [
                        predictor.answer(plan, rows, number, (trunk, predictor.blocks(number)))
                        for predictor, plan in zip(asked, plans, strict=True)
                    ]

                stack.callback(threads.close)
                for answered in threads.map(answer, batches):
                    release_free_memory()
                    for own, its in zip(found, answered, strict=True):
                        own |= its
                        progress(len(its))
        return [[own[row] for row in range(len(inputs))] for own in found]


def _alike(one: Predictor, two: Predictor) -> int:
    """Let equal weights of two models be the same memory; return how many blocks, from the first, are the same.

    None where something outside of the blocks differs, or where a cache forgets what lies outside of a window.
    """
    model, other = one.model, two.model
    held = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        twin = held.get(name)
        if twin is not None and twin.dtype == parameter.dtype and torch.equal(twin, parameter):
            parameter.data = twin.data
    if model.config.is_encoder_decoder or _differs(model.config, other.config) or has_windows(model.config):
        return 0
    pairs = list(zip(one.blocks(), two.blocks(), strict=True))
    inside = {id(p) for pair in pairs for block in pair for p in block.parameters()}
    outside = [[p.data_ptr() for p in each.parameters() if id(p) not in inside] for each in (model, other)]
    if outside[0] != outside[1]:
        return 0
    places = [[[p.data_ptr() for p in block.parameters()] for block in pair] for pair in pairs]
    same = takewhile(lambda pair: pair[0] == pair[1], places)
    return min(sum(1 for _ in same), len(pairs) - 1)


def _differs(config: Any, other: Any) -> bool:
    own, theirs = ({k: v for k, v in each.to_dict().items() if k != "_name_or_path"} for each in (config, other))
    return bool(own != theirs)
