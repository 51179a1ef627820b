"""Tiny real things that several rooms test with: a random two-layer backbone with its own tokenizer, and a domain."""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import absl.logging
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alter_core.mta.replicas import use_threads


class RealDataRan:
    """Fails a whole session that ought to have read real rows (ALTER_NEED_DATA) and did not, such as by a skip."""

    def __init__(self) -> None:
        self.ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Each report also comes to the process that other processes run tests for."""
        self.ran += report.when == "call" and not report.skipped and "real_data" in report.keywords

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if not self.ran and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.ran:
            text = "ALTER_NEED_DATA is set, and no test read rows of ALTER_DATA_ROOT: set it to a folder that has them"
            terminalreporter.write_line(text, red=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: "flows" not in item.path.parts)
    gc.freeze()  # else every full collection looks through a million objects of libraries


def pytest_configure(config: pytest.Config) -> None:
    # Whoever sets up logging, Prefect as it is imported or uvicorn as it starts, closes the log of absl, which
    # rouge-score brings along: what was stderr as absl was imported, so pytest's own, after which every test fails.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__  # which absl leaves open
    for module in ("flows", "prefect.main"):  # flows first, as they set what Prefect reads of the environment
        import_module(module)
    if os.environ.get("ALTER_NEED_DATA") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RealDataRan())


COLOURS = ("red", "green", "blue")
THINGS = ("ball", "box", "car", "hat", "cup", "door", "lamp", "coat", "bike", "sofa")
PLACES = ("hall", "garden", "office", "kitchen", "cellar", "attic", "garage", "yard", "shop", "school")


def tiny_rows() -> dict[str, list[dict[str, str]]]:
    """Three learnable tasks over the same sentences: which colour, does it match, name the thing."""
    rows: dict[str, list[dict[str, str]]] = {"colour": [], "match": [], "thing": []}
    for i, thing in enumerate(THINGS):
        for j, place in enumerate(PLACES):
            colour = COLOURS[(i + j) % 3]
            text = f"the {colour} {thing} is in the {place}"
            rows["colour"].append({"input": text, "target": colour})
            other = COLOURS[(i + 2 * j) % 3]
            rows["match"].append({"input": f"{text} ? {other}", "target": "yes" if other == colour else "no"})
            rows["thing"].append({"input": text, "target": thing})
    return rows


@pytest.fixture
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """For models on the device `meta`, whose name torch's autocast refuses."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads this process computes with, in this test."""
    before = torch.get_num_threads()
    yield use_threads
    use_threads(before)


@pytest.fixture
def tensors_left() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Tells how many more tensors there are after a call, which no garbage collection has followed."""

    def count() -> int:
        return sum(issubclass(type(held), torch.Tensor) for held in gc.get_objects())

    def left(call: Callable[[], object]) -> int:
        gc.collect()
        before = count()
        call()
        return count() - before

    gc.disable()
    yield left
    gc.enable()


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama of two blocks and width 32, as save_pretrained leaves it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = [f"{row['input']} {row['target']}" for rows in tiny_rows().values() for row in rows]
    tokenizer.train_from_iterator(texts, trainer)
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_spec(backbone: Path) -> dict[str, Any]:
    """The tiny domain's spec as plain values, to be changed by a test and written by `write_domain`."""
    return {
        "name": "tiny",
        "description": "Coloured things in places.",
        "backbone": {"model": str(backbone), "licence": "none"},
        "tasks": [
            {
                "name": "colour",
                "type": "classification",
                "labels": list(COLOURS),
                "source": {"path": "colour.jsonl"},
            },
            {"name": "match", "type": "pair_classification", "source": {"path": "match.jsonl"}},
            {"name": "thing", "type": "generation", "source": {"path": "thing.jsonl"}, "max_target_tokens": 6},
        ],
        "split": {"test": 0.2, "validation": 0.1},
        "mta": {"layers": "last_1", "rank": 4, "alpha": None},
        "stage_one": {
            "trains": ["shared_adapters"],
            "active": "shared",
            "steps": 6,
            "rows_per_step": 8,
            "learning_rate": 1e-3,
        },
        "stage_two": {
            "trains": ["task_adapters", "gates"],
            "gate": "soft",
            "steps": 3,
            "rows_per_step": 8,
            "learning_rate": 1e-3,
            "gate_learning_rate": None,
            "warmup": 0.05,
        },
        "precision": "fp32",
    }


def write_domain(folder: Path, spec: dict[str, Any], rows: dict[str, list[dict[str, str]]] | None = None) -> Path:
    """Write domain.yaml and its rows; the path of the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (tiny_rows() if rows is None else rows).items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    file = folder / "domain.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return file
