"""Run a model only where training needs it: from the first MTA layer's block up, and at the tokens that predict.

Everything else stays the model's own forward, so that masks, positions, scalings and caps are those of its
architecture. Three places are stepped into, all exact:
- blocks below the first MTA layer can be skipped, when what they would compute is given (trunk_cache.py);
- an MTA layer in the last block works on each token apart, so it runs only where the output is read;
- the head's logits are computed only there too.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from alter_core.mta.architectures import Side
from alter_core.mta.modes import evaluating
from alter_core.mta.trunk import skipped
from alter_core.training.batches import Batch, collate
from alter_core.training.encoded import EncodedRows, Ragged
from alter_core.training.trainable import Place, Trainable

PACKED_TOLERANCE = 0.1
"""Of the logits' spread: what bf16 may make of a row on two places. Reading another row too makes far more."""


class TargetForward:
    """Logits of a batch at the tokens that predict its targets.

    mta: on any device. first: blocks of `side` below this number are the trunk.
    """

    def __init__(self, mta: Trainable) -> None:
        self.mta = mta
        self.model: Any = mta.model
        self.is_encoder_decoder = len(mta.sides) > 1
        self.side: Side = "encoder" if self.is_encoder_decoder else "decoder"
        self.blocks = mta.sides[self.side]
        self.first = self.first_of(self.side)
        decoder = mta.sides["decoder"]
        # Only there does nothing above the FFN look at other tokens.
        self._last = [la for la in mta.layers if la.side == "decoder" and la.block == len(decoder) - 1]
        self._at: Tensor | None = None

    def first_of(self, side: Side) -> int:
        """The first block of `side` with an MTA layer; how many blocks there are where none has one."""
        return min((la.block for la in self.mta.layers if la.side == side), default=len(self.mta.sides[side]))

    @property
    def decoder_start(self) -> int | None:
        """First token that an encoder-decoder's decoder reads; None for a causal model."""
        return int(self.model.config.decoder_start_token_id) if self.is_encoder_decoder else None

    def logits(
        self, batch: Batch, states: Float[Tensor, "batch seq hidden"] | None = None
    ) -> Float[Tensor, "target vocab"]:
        """Run the model on `batch`; with `states`, the hidden states at block `first`, without its trunk."""
        with ExitStack() as stack:
            self._at = batch.at
            if not self.model.is_activation_checkpointing:  # it runs the layer again after these hooks are gone
                for layer in self._last:
                    stack.enter_context(_only_at(layer, batch))
            head = self.model.get_output_embeddings()
            handle = head.register_forward_pre_hook(self._gather)
            stack.callback(handle.remove)
            if states is not None and self.first:
                stack.enter_context(skipped(self.blocks, self.first, states))
            stack.enter_context(self.mta.routing(batch.task_ids))
            logits: Tensor = self.model(**self._inputs(batch), use_cache=False).logits
        return logits[0]

    @torch.no_grad()
    def states(self, batch: Batch) -> Float[Tensor, "batch seq hidden"]:
        """Run the trunk alone: hidden states at block `first`, or what the last block gives when the trunk is all."""
        inputs = self._inputs(batch)
        inputs.pop("decoder_input_ids", None)
        stack = self.model.get_encoder() if self.is_encoder_decoder else self.model.base_model
        caught = _Caught()

        def catch(_block: nn.Module, _args: Any, out: Any = None) -> None:
            hidden = _args[0] if out is None else out
            caught.hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
            raise caught

        if self.first < len(self.blocks):
            handle = self.blocks[self.first].register_forward_pre_hook(catch)
        else:
            handle = self.blocks[-1].register_forward_hook(catch)
        try:
            with self.mta.routing(batch.task_ids):  # some blocks count their rows at the door
                stack(**inputs)
        except _Caught:
            # It and this frame hold each other, with what each block computed: until some garbage collection.
            caught.__traceback__ = None
            return caught.hidden
        finally:
            handle.remove()
        raise AssertionError("the model's forward did not run its blocks")

    @torch.no_grad()
    def can_pack(self, longest: int) -> bool:
        """Tell whether rows of up to `longest` tokens may share a line (`collate(packed=True)`), by trying it.

        transformers takes a mask of our own in place of the one that it makes, if the architecture and the attention
        kernel have masks. Then a row gives the same wherever it lies, and whatever lies beside it.
        """
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if self.is_encoder_decoder or (window and longest > window):  # our mask knows no window
            return False
        prompts, targets = ([5, 6, 7, 8], [5, 6, 9, 10, 11], [5, 6, 8]), ([12, 13, 14], [7, 8], [9, 10, 11, 12])
        rows = EncodedRows(np.zeros(3, dtype=np.int64), Ragged.of(prompts), Ragged.of(targets))
        device = next(self.blocks.parameters()).device
        found = []
        try:
            for packed in (False, True):
                batch = collate(rows, np.arange(3), 0, packed=packed)
                with evaluating(self.model):
                    logits = self.logits(batch.to(device)).float()
                pieces = torch.split(logits, [len(targets[row]) for row in batch.rows])
                found.append(torch.cat([pieces[place] for place in np.argsort(batch.rows)]))
        except (TypeError, ValueError, RuntimeError):  # takes no positions, or no such mask
            return False
        apart = (found[1] - found[0]).abs().max()
        return bool(apart <= PACKED_TOLERANCE * found[0].std())

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        if batch.answer_inputs is None:
            # Padding lies on the right, where a causal model never looks back from: no mask, and faster kernels.
            mask = batch.attention(next(self.blocks.parameters()).dtype)
            if mask is None or batch.positions is None:
                return {"input_ids": batch.inputs}
            return {"input_ids": batch.inputs, "position_ids": batch.positions, "attention_mask": mask}
        return {
            "input_ids": batch.inputs,
            "attention_mask": batch.mask.long(),
            "decoder_input_ids": batch.answer_inputs,
        }

    def _gather(self, _head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self._at is not None
        hidden = args[0]
        return (hidden[self._at[:, 0], self._at[:, 1]][None], *args[1:])


class _Caught(Exception):
    """Ends a forward at the block where the trunk is over."""

    hidden: Tensor


@contextmanager
def _only_at(layer: Place, batch: Batch) -> Iterator[None]:
    """Let a layer that works on each token apart run only at the places `at` of `batch`; zeros elsewhere.

    The lines of `at` are in order, so each line's places form one run; runs are padded to the longest.
    """
    (rows, places), index, width = batch.at.unbind(1), batch.number, batch.most

    def before(_layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        (hidden,) = args
        if hidden.dim() != 3:
            return None
        narrow = hidden.new_zeros(hidden.shape[0], width, hidden.shape[2])
        narrow[rows, index] = hidden[rows, places]
        shapes.append(hidden.shape)
        return (narrow,)

    def after(_layer: nn.Module, _args: Any, out: Tensor) -> Tensor | None:
        if not shapes:
            return None
        whole = out.new_zeros(shapes.pop())
        whole[rows, places] = out[rows, index]
        return whole

    shapes: list[torch.Size] = []
    handles = [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
