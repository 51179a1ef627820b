"""How many parameters arms train, counted on models without memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alter_core.mta import inject
from alter_core.mta.architectures import Side, find_architecture, find_blocks
from alter_core.mta.injection import mta_blocks
from alter_core.spec import DomainSpec
from alter_core.spec.mta import MTAConfig


class Shapes:
    """Of a domain's model and of its arms."""

    def __init__(self, backbone: Path, spec: DomainSpec) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)
        self._loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        self._config = config
        self._spec = spec
        model = self._model()
        self._blocks = find_blocks(model, find_architecture(model))

    def trained(self, spec: DomainSpec) -> int:
        """Parameters that any stage of `spec` trains."""
        mta = inject(self._model(), spec.mta, spec.task_names, fingerprint=False)
        names: dict[str, int] = {}
        for stage in spec.stages.values():
            mta.use_adapters(task=stage.active != "shared", shared=stage.active != "task")
            names |= {name: parameter.numel() for name, parameter in mta.set_trainable(stage.parts)}
        return sum(names.values())

    def rank_for(self, budget: int, config: Mapping[str, object]) -> int:
        """The rank of task adapters that trains about `budget` parameters; `config` has rank 1."""
        tried = MTAConfig.model_validate({**self._spec.mta.model_dump(), **config})
        mta = inject(self._model(), tried, self._spec.task_names, fingerprint=False)
        each = sum(parameter.numel() for _, parameter in mta.set_trainable({"task_adapters"}))
        return max(1, round(budget / max(each, 1)))

    def layers_for(self, budget: int) -> dict[str, str]:
        """The `layers` whose FFNs hold about `budget` parameters, from the last block down; never fewer than the
        domain's own."""
        ffn = {"layers": "last_1", "encoder_layers": "last_1", "adapter": "lora", "rank": 1, "homes": {}}
        ffn |= {"shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"}
        if "encoder" not in self._blocks:
            ffn["encoder_layers"] = None
        tried = MTAConfig.model_validate({**self._spec.mta.model_dump(), **ffn})
        mta = inject(self._model(), tried, self._spec.task_names, fingerprint=False)
        each = sum(parameter.numel() for _, parameter in mta.set_trainable({"shared_adapters"}))
        least = max(len(numbers) for numbers in self._chosen().values())
        most = min(len(blocks) for blocks in self._blocks.values())
        layers = f"last_{min(max(round(budget / each), least, 1), most)}"
        return {"layers": layers} | ({"encoder_layers": layers} if "encoder" in self._blocks else {})

    def linear_rank(self) -> int:
        """Parameters that one rank of LoRA takes on every linear of the blocks with MTA layers."""
        chosen = self._chosen()
        return sum(
            module.in_features + module.out_features
            for side, numbers in chosen.items()
            for number in numbers
            for module in self._blocks[side][number].modules()
            if isinstance(module, nn.Linear)
        )

    def _chosen(self) -> dict[Side, list[int]]:
        return mta_blocks(self._blocks, self._spec.mta)

    def _model(self) -> Any:
        with torch.device("meta"):
            return self._loader.from_config(self._config, trust_remote_code=False)
