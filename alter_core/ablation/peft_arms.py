"""Baselines by the library peft (one shared LoRA, Poly), trained and scored by the same code as MTA models."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alter_core.ablation.arm import PeftChoice
from alter_core.backbone import load_backbone
from alter_core.mta.architectures import Side, find_architecture, find_blocks
from alter_core.mta.injection import mta_blocks
from alter_core.numerics import dtype_of
from alter_core.prompts import PROMPT_FORMAT
from alter_core.spec import DomainSpec
from alter_core.training.result import GateTable
from alter_core.training.subject import Setting, Subject
from alter_core.whole import written_whole

ADAPTERS = "adapters.safetensors"
"""In a job's output: the trained adapters."""
_NAME = "arm"  # peft's name for the adapter


class PeftHandle:
    """A Trainable over a backbone with peft adapters."""

    def __init__(self, backbone: Path, spec: DomainSpec, choice: PeftChoice) -> None:
        """Set the seed before: adapters draw random numbers."""
        from peft import LoraConfig, PolyConfig, inject_adapter_in_model

        self.model, self.tokenizer = load_backbone(backbone)
        self.tasks = list(spec.task_names)
        self.is_poly = choice.kind == "poly"
        self.sides = find_blocks(self.model, find_architecture(self.model))
        chosen = mta_blocks(self.sides, spec.mta)
        own = {id(m) for side, numbers in chosen.items() for n in numbers for m in self.sides[side][n].modules()}
        targets = [name for name, m in self.model.named_modules() if isinstance(m, nn.Linear) and id(m) in own]
        # Only where trunk ends is read off these; the adapters stand in the linears themselves.
        self.layers = [_Place(side, min(numbers)) for side, numbers in chosen.items() if numbers]
        config = (
            PolyConfig(r=choice.rank, target_modules=targets, n_tasks=len(self.tasks), n_skills=len(self.tasks))
            if self.is_poly
            else LoraConfig(r=choice.rank, lora_alpha=choice.rank, target_modules=targets)
        )
        self.model = inject_adapter_in_model(config, self.model, adapter_name=_NAME).eval()
        for _, parameter in self.adapters():
            parameter.data = parameter.data.float()

    def adapters(self) -> list[tuple[str, nn.Parameter]]:
        """The adapters' parameters; all else is frozen."""
        named = []
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name or "poly_" in name)
            if parameter.requires_grad:
                named.append((name, parameter))
        return named

    @contextmanager
    def routing(self, task_ids: Tensor | Sequence[str]) -> Iterator[None]:
        """Poly's layers want each row's task as an argument; LoRA's ask for nothing."""
        if not self.is_poly:
            yield
            return
        ids = task_ids if isinstance(task_ids, Tensor) else torch.tensor([self.tasks.index(name) for name in task_ids])
        ids = ids.to(next(self.model.parameters()).device)

        def add(_layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "task_ids": ids}

        layers = [module for module in self.model.modules() if hasattr(module, "poly_router")]
        handles = [layer.register_forward_pre_hook(add, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def gate_table(self) -> GateTable:
        """Nothing: there are no gates."""
        return {}

    def leaving_out(self, tasks: Collection[int]) -> AbstractContextManager[None]:
        """Nothing: no arm drops peft's adapters."""
        return nullcontext()

    def own_places(self, task: int) -> dict[str, list[int]]:
        """None: all tasks train together."""
        return {}

    def parameters_by_part(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """All under `backbone`: to predict, adapters take its precision too, as MTA layers mix theirs into it."""
        return {"backbone": list(self.model.named_parameters())}

    def parameter_counts(self) -> dict[str, int]:
        """Trained and total parameters."""
        trained = sum(parameter.numel() for _, parameter in self.adapters())
        return {"trained": trained, "total": sum(parameter.numel() for parameter in self.model.parameters())}

    def save(self, path: Path) -> None:
        save_file({name: parameter.detach().cpu().contiguous() for name, parameter in self.adapters()}, path)

    def load(self, path: Path) -> None:
        state = load_file(path)
        with torch.no_grad():
            for name, parameter in self.adapters():
                parameter.copy_(state[name])


class _Place(nn.Module):
    """Says at which block adapters begin."""

    def __init__(self, side: Side, block: int) -> None:
        super().__init__()
        self.side = side
        self.block = block


@dataclass(frozen=True)
class PeftKind:
    """Models with peft's adapters, as a training job's kind of model."""

    choice: PeftChoice

    @property
    def key(self) -> tuple[object, ...]:
        return "peft", self.choice.kind, self.choice.rank

    def is_kept(self, output: Path) -> bool:
        return (output / ADAPTERS).exists()

    def load(self, setting: Setting) -> Subject:
        job, precision = setting.job, setting.precision
        handle = PeftHandle(job.backbone, job.spec, self.choice)
        adapters = handle.adapters()
        for parameter in handle.model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype_of(precision))
        handle.model.to(setting.accelerator.device)

        def save() -> None:
            with written_whole(job.output / ADAPTERS) as path:
                handle.save(path)

        return Subject(
            mta=handle,
            tokenizer=handle.tokenizer,
            spec=job.spec,
            prompt_format=PROMPT_FORMAT,
            enter=lambda: (adapters, False),
            opens_gates=False,
            autocast=precision == "bf16",
            has_trunk=True,
            save=save,
        )
