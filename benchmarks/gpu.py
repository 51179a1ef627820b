"""What one GPU does with the factory's parts, in one command of under eight minutes: `make bench-gpu`.

    python benchmarks/gpu.py [--device cuda] [--seconds 430] [--small] [--out benchmarks/results]

Needs torch, transformers and what `alter_core` imports; neither Prefect nor MLflow. A part that cannot run says why,
and the others go on; when the time is up, the part that runs ends with what it has, and the rest are told as left out.
After each part gpu.json and gpu.md are written anew. Everything else lies in a temporary folder: to run it twice is
safe. Without a GPU it says so, writes nothing and ends with 0.
`--device cpu --small --out FOLDER` tries the command itself, at a size that measures nothing.
"""

import argparse
import faulthandler
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import transformers

from alter_core.backbone import load_backbone, resolve_backbone
from alter_core.errors import AlterError
from alter_core.spec import BackboneSpec
from alter_core.workspace import Workspace
from benchmarks import mta_layer, training
from tests.backbones import byte_level, llama

BEGIN = time.monotonic()
"""Imports are not counted: half a minute at the most."""
RESULTS = Path(__file__).parent / "results"
STEPS = 40
CPU_SECONDS = 100
"""The CPU's curve is a reference: it is compared as far as the CPU gets in this time."""
GRACE_SECONDS = 15
"""After the time is up: whoever still hangs, in the driver say, is ended from without Python."""
COLOURS, THINGS, PLACES = ("red", "green", "blue"), ("ball", "box", "car", "hat"), ("hall", "garden", "office")
Found = dict[str, Any]
"""What a part found, as JSON; filled as it goes, so that a part that is cut short leaves what it has."""


class TimeUp(BaseException):
    """No `Exception`, so that nobody catches it on its way."""


@dataclass(frozen=True)
class Bench:
    """What every part is given."""

    device: torch.device
    small: bool
    folder: Path
    """Temporary."""
    backbone: Path
    """Converted."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=430, help="the time is up after so many")
    parser.add_argument("--small", action="store_true", help="tiny sizes: tries the command, measures nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch finds no GPU here, so nothing is measured; --device cpu --small --out FOLDER tries the command")
        return 0
    if given.device == "cpu" and given.out == RESULTS:
        parser.error("a CPU's figures are no results: name another folder by --out")
    device, parts = torch.device(given.device), dict[str, Found]()
    faulthandler.dump_traceback_later(given.seconds + GRACE_SECONDS, exit=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        backbone, name = find_backbone(Path(scratch), given.small)
        bench = Bench(device, given.small, Path(scratch), backbone)
        about = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            **{"torch": torch.__version__, "transformers": transformers.__version__, "backbone": name},
            **{"small": given.small},
        }
        for part in (domain, layer, steps, prediction):
            parts[part.__name__] = tried(part, bench, BEGIN + given.seconds)
            print(part.__name__, json.dumps(parts[part.__name__])[:600], flush=True)
            result = {"about": about, "parts": parts, "seconds": round(time.monotonic() - BEGIN, 1)}
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            (given.out / "gpu.md").write_text(as_markdown(result), encoding="utf-8")
    faulthandler.cancel_dump_traceback_later()
    return 0


def tried(part: Callable[[Bench, Found], None], bench: Bench, until: float) -> Found:
    """What a part found until then, and why it could not run or end."""
    found: Found = {}
    begin = time.monotonic()
    if begin >= until:
        return {"left out": "the time was up"}
    try:
        with time_up_after(until - begin):
            part(bench, found)
    except TimeUp:
        found["left out"] = "the rest of this part: the time was up"
    except Exception as error:  # whatever it is: the machine is lent for minutes, and the other parts need them
        found |= {"failed": f"{type(error).__name__}: {error}", "at": traceback.format_exc()[-400:]}
    return found | {"seconds": round(time.monotonic() - begin, 1)}


@contextmanager
def time_up_after(seconds: float) -> Iterator[None]:
    """Raises TimeUp in what is run, after so many seconds."""

    def ring(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def find_backbone(folder: Path, small: bool) -> tuple[Path, str]:
    """The embedded backbone where its package is installed; else a random one of its shape, which is as fast."""
    workspace = Workspace(folder / "home")
    if not small:
        try:
            return resolve_backbone(BackboneSpec(model=training.EMBEDDED), workspace), "SmolLM2-135M-Instruct"
        except (AlterError, ImportError) as error:
            print(f"a random backbone of its shape in place of the embedded one: {error}")
    tokenizer, sizes = byte_level(), dict[str, int]()
    if not small:
        sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49_152}
        sizes |= {"num_attention_heads": 9, "num_key_value_heads": 3}
    # mta_arm trains the top four blocks and caches below them.
    model = llama(tokenizer, **({"num_hidden_layers": 5} | sizes), tie_word_embeddings=True)
    model.save_pretrained(folder / "made")
    tokenizer.save_pretrained(folder / "made")
    return resolve_backbone(BackboneSpec(model=str(folder / "made"), licence="none"), workspace), "random weights"


def small_ffn(**more: Any) -> torch.nn.Module:
    return llama(byte_level(), num_hidden_layers=1, **more)  # type: ignore[no-any-return]


def domain(bench: Bench, found: Found) -> None:
    """One domain trained and scored: on the device, again after a kill, and on the CPU beside it."""
    from alter_core.data.ingest import ingest
    from alter_core.evaluation.order import EvaluationJob, Subject
    from alter_core.evaluation.run import run as evaluate
    from alter_core.process import step_rows

    count = 8 if bench.small else STEPS
    place = bench.folder / "domain"
    place.mkdir()
    for task in ("colour", "thing"):
        lines = [
            json.dumps({"input": text, "target": answer(task, text)}) for text in sentences(40 if bench.small else 300)
        ]
        (place / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = domain_spec(bench, count)
    dataset = ingest(spec, place, Workspace(bench.folder / "home"))
    spec = spec.with_labels(dataset.labels)

    def job(name: str, precision: str) -> Path:
        out = place / name
        out.mkdir()
        values = {"stage": "stage_one", "spec": spec.model_dump(mode="json") | {"precision": precision}}
        values |= {"dataset": str(dataset.path), "backbone": str(bench.backbone), "output": str(out), "seed": 0}
        values |= {"checkpoints": str(out / "checkpoints"), "checkpoint_seconds": 0 if name == "killed" else 60}
        values |= {"trunk_cache": str(place / f"cache-{name}"), "metrics": str(out / "metrics.jsonl")}
        (out / "job.json").write_text(json.dumps(values), encoding="utf-8")
        return out

    def losses(out: Path) -> list[float]:
        metrics = out / "metrics.jsonl"
        return [round(row["loss"], 4) for row in step_rows(metrics)] if metrics.exists() else []

    own = "fp32" if bench.device.type == "cpu" else "bf16"
    whole, killed, cpu = job("whole", own), job("killed", own), job("cpu", "fp32")
    begin = time.monotonic()
    with training_of(whole, bench.device.type) as ran:
        ended_well(whole, ran.wait())
    result = read(whole / "result.json")
    found |= {"precision": own, "wall_seconds": round(time.monotonic() - begin, 1)}
    found |= {key: round(result["cost"][key], 2) for key in ("train_seconds", "peak_memory_mb")}
    found["losses"] = losses(whole)
    scored = evaluate(
        EvaluationJob(
            dataset=str(dataset.path),
            spec=spec,
            subjects=(Subject(name="stage one", bundle=str(whole / "bundle"), output=str(place / "score")),),
            backbone=str(bench.backbone),
            metrics=place / "score.jsonl",
        ),
        lambda **_: None,
        lambda: False,
    )
    found["macro"] = next(iter(scored.values())).macro.value
    with training_of(killed, bench.device.type) as victim:
        while victim.poll() is None and len(losses(killed)) < count // 4:
            time.sleep(0.02)
    reached = len(losses(killed))
    with training_of(killed, bench.device.type) as again:
        ended_well(killed, again.wait())
    found["resume"] = {
        **{"killed": victim.returncode == -signal.SIGKILL, "killed_after_step": reached},
        "same_bits": result["trained_digest"] == read(killed / "result.json")["trained_digest"],
        "largest_gap_of_losses": largest_gap(losses(whole), losses(killed)),
    }
    if bench.device.type == "cpu":
        found["beside_cpu"] = "this is the CPU"
        return
    begin = time.monotonic()
    with training_of(cpu, "cpu") as ran:
        while ran.poll() is None and time.monotonic() - begin < CPU_SECONDS:
            time.sleep(0.2)
    beside = losses(cpu)
    gap = largest_gap(found["losses"], beside)
    found["beside_cpu"] = {"precision": "fp32", "steps": len(beside), "losses": beside, "largest_gap_of_losses": gap}
    if ran.returncode not in (0, -signal.SIGKILL):
        ended_well(cpu, ran.returncode)


def largest_gap(one: list[float], other: list[float]) -> float | None:
    """Over the steps that both have; None: there is none."""
    return max((round(abs(a - b), 4) for a, b in zip(one, other, strict=False)), default=None)


def layer(bench: Bench, found: Found) -> None:
    """The MTA layer against a plain FFN and the naive loop."""
    found["rows"] = []
    backbone = small_ffn if bench.small else mta_layer.smollm2
    for dtype in (torch.float32,) if bench.small else (torch.bfloat16, torch.float32):
        for seq in (1,) if bench.small else (1, 128):
            kinds = mta_layer.variants(backbone, dtype, str(bench.device), seq, 6 if bench.small else mta_layer.ROWS)
            for backward in (False, True):
                figures = mta_layer.measure(kinds, backward, str(bench.device), 1 if bench.small else 5)
                which = {"dtype": str(dtype), "seq": seq, "pass": "forward + backward" if backward else "forward"}
                found["rows"].append(which | {key: round(value, 3) for key, value in figures.items()})


def steps(bench: Bench, found: Found) -> None:
    """Training rows per second with and without trunk cache, and of peft; waits for the device inside of a step."""
    rows = training.make_rows(32 if bench.small else 400, 300 if bench.small else 40_000)
    dtype = torch.float32 if bench.small else torch.bfloat16
    cached, _ = training.mta_arm(bench.backbone, rows, bench.device, dtype, bench.folder / "cache")
    plain, _ = training.mta_arm(bench.backbone, rows, bench.device, dtype, None)
    arms = [cached, plain]
    try:
        arms.append(training.peft_arm(bench.backbone, rows, bench.device, dtype, 4, plain.parameters))
    except ImportError as error:
        found["peft"] = f"left out, for it is not installed: {error}"
    rates = training.measure(arms, rows, 1 if bench.small else 5, 1 if bench.small else 10, bench.device)
    for arm in arms:
        found[arm.name] = {"rows_per_second": round(statistics.median(rates[arm.name]), 1)}
    if bench.device.type == "cuda":
        for arm in arms[:2]:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    arm.step(np.arange(training.ROWS_PER_STEP))
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            found[arm.name]["waits_in_a_step"] = sorted({str(each.message)[:120] for each in seen})


def prediction(bench: Bench, found: Found) -> None:
    """Answers per second of the plain backbone on mixed rows, as `alter predict` writes them."""
    from alter_core.inference.predict import Predictor

    model, tokenizer = load_backbone(bench.backbone)
    predictor = Predictor(model, tokenizer, domain_spec(bench, 1), None, device=bench.device)
    asked = sentences(16 if bench.small else 1000)
    tasks = ["colour" if number % 2 else "thing" for number in range(len(asked))]
    predictor.predict(tasks[:16], asked[:16])
    begin = time.perf_counter()
    predictor.predict(tasks, asked)
    found["rows_per_second"] = round(len(asked) / (time.perf_counter() - begin), 1)


@contextmanager
def training_of(out: Path, device: str) -> "Iterator[subprocess.Popen[bytes]]":
    """The training job in `out`, which sees no GPU where it is to train on the CPU; it is killed at the end."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    with (out / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "alter_core.training.job", str(out / "job.json")]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def ended_well(out: Path, code: int) -> None:
    if code:
        raise RuntimeError(f"training in {out.name} ended with {code}: {(out / 'log.txt').read_text()[-400:]}")


def domain_spec(bench: Bench, count: int) -> Any:
    """Coloured things in places: which colour, and which thing."""
    from alter_core.spec import DomainSpec

    stage = {"steps": count, "rows_per_step": 8 if bench.small else 32, "learning_rate": 1e-3}
    return DomainSpec.model_validate(
        {
            **{"name": "things", "description": "Coloured things in places."},
            "backbone": {"model": str(bench.backbone), "licence": "none"},
            "tasks": [
                {
                    **{"name": "colour", "type": "classification", "labels": COLOURS},
                    **{"source": {"path": "colour.jsonl"}, "instruction": "Which colour is it?"},
                },
                {
                    **{"name": "thing", "type": "generation", "source": {"path": "thing.jsonl"}},
                    **{"instruction": "What is it?", "max_target_tokens": 6},
                },
            ],
            "mta": {"layers": "last_1" if bench.small else "last_10", "rank": 4 if bench.small else 16, "alpha": None},
            **{"stage_one": stage, "stage_two": None, "split": {"test": 0.2, "validation": 0.1}},
        }
    )


def sentences(count: int) -> list[str]:
    draw = random.Random(0)
    return [
        f"note {number}: the {draw.choice(COLOURS)} {draw.choice(THINGS)} is in the {draw.choice(PLACES)}"
        for number in range(count)
    ]


def answer(task: str, text: str) -> str:
    words = text.split()
    return words[3] if task == "colour" else words[4]


def read(file: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def as_markdown(result: dict[str, Any]) -> str:
    """Every figure, part by part."""
    about = result["about"]
    lines = [
        "# One GPU",
        "",
        f"{about['device']}, torch {about['torch']}, transformers {about['transformers']}, backbone "
        f"{about['backbone']}; {result['seconds']:.0f} s in all. Made by `make bench-gpu`.",
    ]
    if about["small"]:
        lines += ["", "Tiny sizes: these figures show that the command runs, and nothing else."]
    for name, part in result["parts"].items():
        lines += ["", f"## {name}", ""]
        if part.get("rows"):
            head = list(part["rows"][0])
            lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
            lines += [f"| {' | '.join(str(row[key]) for key in head)} |" for row in part["rows"]]
            lines += [""]
            part = {key: value for key, value in part.items() if key != "rows"}
        lines += [f"- {key}: {json.dumps(value)}" for key, value in part.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
