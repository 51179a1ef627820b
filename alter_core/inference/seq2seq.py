"""Seq2Seq: a batch in an encoder-decoder model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from alter_core.inference.prefixes import Prompt
from alter_core.inference.reading import Reading, Routing, padded, parts_of


class Seq2Seq(Reading):
    """A batch in an encoder-decoder model: the encoder runs once, over parts."""

    def __init__(self, model: Any, tasks: Sequence[str], prompts: Sequence[Prompt], pad: int, routing: Routing) -> None:
        super().__init__(model, tasks, prompts, pad, routing)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.encoded: Any = None

    def start(self, room: int) -> Tensor:
        self.mask = padded(self.prompts, self.pad, left=False, device=self.device)[1]
        for rows in parts_of(self.prompts, self.device):
            ids, mask = padded([self.prompts[row] for row in rows], self.pad, left=False, device=self.device)
            with self.routing([self.tasks[row] for row in rows]):
                out = self.model.get_encoder()(input_ids=ids, attention_mask=mask)
            own = out.last_hidden_state
            if self.encoded is None:
                self.encoded = out
                hidden = own.new_zeros(*self.mask.shape, own.shape[2])
            hidden[rows.start : rows.stop, : own.shape[1]] = own
        self.encoded.last_hidden_state = hidden
        first = torch.full((len(self.tasks),), self.model.config.decoder_start_token_id, device=self.device)
        return self.step(first)

    def keep(self, kept: Tensor) -> None:
        self.tasks = [self.tasks[row] for row in kept.tolist()]
        self.cache.batch_select_indices(kept)
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[kept]
        self.mask = self.mask[kept]

    def step(self, token: Tensor) -> Tensor:
        with self.routing(self.tasks):
            out = self.model(
                encoder_outputs=self.encoded,
                attention_mask=self.mask,
                decoder_input_ids=token[:, None],
                past_key_values=self.cache,
                use_cache=True,
            )
        logits: Tensor = out.logits[:, -1]
        return logits
