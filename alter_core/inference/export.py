"""A version as a folder that needs nothing of this factory: weights, how to ask them, and rows with their answers.

merged   one task: a plain transformers model
peft     base/, a plain transformers model, and adapters/TASK/, a peft LoRA of each task (`mta.low_rank`)
gguf     the same as base.gguf and adapters/TASK.gguf, or one task as model.gguf; Modelfile.TASK and TASK.gbnf

alter_export.json    of each task the prompt's parts, the labels with their token ids, and a row with its prompt, ids
                     and answer; how far all that is from the model that it was made of
ask.py               asks by transformers and peft alone, or by llama.cpp
README.md            the same for people, and how engines serve it
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from alter_core.backbone import quiet
from alter_core.errors import BundleError, MTAError
from alter_core.inference.export_facts import ExportFacts, TaskFacts
from alter_core.inference.export_page import engine_files, readme
from alter_core.inference.gguf_file import check_gguf, write_adapter, write_model
from alter_core.inference.parity import PROGRAM, Parity, measure_parity
from alter_core.inference.predict import Predictor
from alter_core.inference.prediction import Prediction
from alter_core.inference.recorded_spec import recorded_format, recorded_spec
from alter_core.mta import MTAModel, bundle_digest
from alter_core.mta.bundle import load_bundle
from alter_core.mta.folding import export, fold, save_plain, task_number
from alter_core.mta.low_rank import base_model, low_rank, save_adapter, vllm_rank
from alter_core.mta.manifest import ABSTAIN_BELOW, TEMPERATURES
from alter_core.prompts import answer_text, encode_prompts, encode_targets, longest_answer, prompt_text, room
from alter_core.spec import DomainSpec, TaskSpec
from alter_core.text import tidied
from alter_core.whole import write_json, written_whole

Format = Literal["merged", "peft", "gguf"]
FACTS = "alter_export.json"
ASKED_BY = {"merged": ("transformers",), "peft": ("transformers", "peft"), "gguf": ("xllamacpp",)}
EXAMPLE = "The red ball is in the garden."


@dataclass(frozen=True)
class Wanted:
    """What is to be written."""

    format: Format
    task: str | None = None
    """Unset: all, as one base with a LoRA each, which merged cannot. With gguf, a task that is named is folded."""
    approximate: bool = False
    """Of what is folded: also where that is not exact."""
    fill_rank: bool = False
    """peft: ranks filled with zeros up to one that vLLM takes."""

    @property
    def folds(self) -> bool:
        """Whether one task is written as a plain model."""
        return self.format == "merged" or (self.format == "gguf" and self.task is not None)


def export_version(
    bundle: Path, target: Path, wanted: Wanted, rows: Sequence[tuple[str, str]] = (), name: str = ""
) -> Parity | None:
    """Write a bundle to `target`, which appears whole or not at all; how it answers `rows` of task and input, or None
    where nothing is here to ask it by: GGUF files take the package xllamacpp.

    rows: of a task without any, one is made up. name: of the version, for people.
    Raises MTAError for an unknown task and for what has no exact form; BundleError for a bundle that cannot be read.
    """
    with quiet():
        return _exported(bundle, target, wanted, rows, name)


def _exported(bundle: Path, target: Path, wanted: Wanted, rows: Sequence[tuple[str, str]], name: str) -> Parity | None:
    mta, tokenizer, metadata = load_bundle(bundle)  # written in its own precision, not in what computes fastest here
    spec, form = recorded_spec(metadata, bundle), recorded_format(metadata, bundle)
    if tokenizer is None:
        raise BundleError(f"{bundle} holds no tokenizer, without which nothing can be asked: save the bundle with it")
    tasks = mta.tasks if wanted.task is None else [wanted.task]
    if wanted.format == "merged" and wanted.task is None:
        raise MTAError("merged writes one task: name it", [f"known tasks: {', '.join(mta.tasks)}"])
    for task in tasks:
        task_number(mta, task)
    asked = [(task, text) for task, text in rows if task in tasks]
    asked += [(task, EXAMPLE) for task in tasks if task not in {with_row for with_row, _ in asked}]
    asked = [(task, tidied(text, spec.task(task).layout)) for task, text in asked]
    with written_whole(target) as work:
        facts = _written(work, mta, tokenizer, tasks, wanted, name or spec.name)
        # In fp32, as `ask.py` computes too: two ways to round to bf16 would hide how near they are.
        champion = Predictor(mta.model, tokenizer, spec, mta, dtype=torch.float32, prompt_format=form)
        champion.temperatures = metadata.get(TEMPERATURES, {})
        answers = champion.predict([given for given, _ in asked], [text for _, text in asked])
        facts |= {
            "name": name or spec.name,
            "bundle": bundle_digest(bundle),
            "encoder_decoder": bool(mta.model.config.is_encoder_decoder),  # type: ignore[union-attr]
            "prompt_format": form,
            "end": tokenizer.eos_token,
        }
        for task in tasks:
            place = [given for given, _ in asked].index(task)
            facts["tasks"][task] |= _asking(mta, tokenizer, spec, form, asked[place], answers[place])
            facts["tasks"][task]["temperature"] = champion.temperatures.get(task, 1.0)
            facts["tasks"][task]["abstain_below"] = metadata.get(ABSTAIN_BELOW, {}).get(task)
        write_json(work / FACTS, facts)
        shutil.copy(Path(__file__).with_name(PROGRAM), work / PROGRAM)
        engines = ASKED_BY[wanted.format]
        parity = measure_parity(work, asked, answers, engines) if all(map(find_spec, engines)) else None
        write_json(work / FACTS, {**facts, "parity": parity and asdict(parity)})
        for file, text in {"README.md": readme(facts, parity), **engine_files(facts)}.items():
            (work / file).write_text(text, encoding="utf-8")
    return parity


def _written(work: Path, mta: MTAModel, tokenizer: Any, tasks: Sequence[str], wanted: Wanted, name: str) -> ExportFacts:
    """Write the models; what the manifest says of them."""
    facts: ExportFacts = {"format": wanted.format}
    if wanted.format == "gguf":
        check_gguf(mta.model, tokenizer)
    if wanted.format == "merged":
        export(mta, tokenizer, tasks[0], work, approximate=wanted.approximate)
        return {**facts, "model": ".", "tasks": {tasks[0]: {"adapter": None}}}
    if wanted.folds:
        plain = fold(mta, tasks[0], approximate=wanted.approximate)
        work.mkdir()
        write_model(plain, tokenizer, work / "model.gguf", f"{name}: {tasks[0]}")
        return {**facts, "model": "model.gguf", "tasks": {tasks[0]: {"adapter": None}}}
    base: Any = base_model(mta)
    (work / "adapters").mkdir(parents=True)
    found: dict[str, TaskFacts] = {}
    for task in tasks:
        if wanted.format == "gguf":
            rank, adapter = low_rank(mta, task)
            place = f"adapters/{task}.gguf"
            write_adapter(adapter, rank, base.config, work / place, task)
        else:
            place = f"adapters/{task}"
            rank = save_adapter(mta, task, work / place, wanted.fill_rank)
        found[task] = {"adapter": place, "rank": rank}
    if wanted.format == "gguf":
        write_model(base, tokenizer, work / "base.gguf", name)
        return {**facts, "model": "base.gguf", "tasks": found}
    save_plain(base, tokenizer, work / "base")
    most = vllm_rank(max(task["rank"] for task in found.values()))
    return {**facts, "model": "base", "vllm_max_lora_rank": most, "tasks": found}


def _asking(
    mta: MTAModel, tokenizer: Any, spec: DomainSpec, form: int, row: tuple[str, str], said: Prediction
) -> TaskFacts:
    """What whoever asks for a task has to know."""
    name, text = row
    task: TaskSpec = spec.task(name)
    config: Any = mta.model.config
    labels = encode_targets(tokenizer, task, task.labels or (), form)
    most = max(map(len, labels)) if labels else longest_answer(task)
    ends = room(config)
    longest = None if ends is None else ends - (0 if config.is_encoder_decoder else most)
    ([ids], _) = encode_prompts(tokenizer, task, [text], longest, form)
    before, after = prompt_text(task, "\0").split("\0")
    bare = len(tokenizer(prompt_text(task, ""))["input_ids"])
    return {
        "type": task.type,
        "before_input": before,
        "after_input": after,
        "before_answer": answer_text(""),
        "layout": task.layout,
        "max_input_tokens": task.max_input_tokens,
        "max_prompt_tokens": longest,
        "max_new_tokens": most,
        "context": min(ends or sys.maxsize, bare + task.max_input_tokens + most),
        "labels": list(task.labels or ()),
        "label_ids": dict(zip(task.labels or (), labels, strict=True)),
        "example": {
            "input": text,
            "prompt": prompt_text(task, text),
            "prompt_ids": ids,
            "as_one_text": tokenizer(prompt_text(task, text))["input_ids"] == ids,
            "cut": said.truncated,
            "answer": said.text,
            "probability": said.score,
        },
    }
