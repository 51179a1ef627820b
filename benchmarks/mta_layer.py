"""One MTA layer against a naive loop and against a plain FFN: time forward, and forward + backward.

    python benchmarks/mta_layer.py [--device cuda] [--repeats 5] [--threads 1] [--out DIR]

Every repeat runs all variants one after another, so that another load on the machine hits all of them; a ratio is
the median over repeats of the ratio within a repeat. With one thread (the default on a CPU) time is the process's CPU
time, which leaves out what other programs take; with more, or on a GPU, it is wall time. The targets stand in TARGETS.
"""

import argparse
import itertools
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from alter_core.mta import MTAConfig, MTALayer, inject

ROWS = 32
TASKS = ("intent", "nli", "title", "toxic", "tone")
SEQS = (1, 64, 128)
LEAST_SECONDS = 0.02
"""A measurement repeats its variant until it takes this long, so that the clock's grain does not count."""
VARIANTS = ("plain", "weight", "lora", "output", "naive")
TITLES = {
    "plain": "plain FFN",
    "weight": "weight mixing",
    "lora": "weight mixing, lora over a shared FFN",
    "output": "output mixing",
    "naive": "naive loop",
}
WEIGHT_TARGET = "weight mixing at most 1.2 x plain FFN, forward, seq >= 64"
OUTPUT_TARGET = "output mixing at least 3 x faster than the naive loop, bfloat16"
TARGETS = {
    WEIGHT_TARGET: lambda row: row["pass"] != "forward" or row["seq"] < 64 or row["weight / plain"] <= 1.2,
    OUTPUT_TARGET: lambda row: row["dtype"] != "bfloat16" or row["naive / output"] >= 3,
}
WHY_MISSED = {
    WEIGHT_TARGET: "A batch that mixes tasks reads one FFN's weights per task, the plain FFN reads one in all. In "
    "bfloat16 a product is so cheap that this reading shows until a task brings several hundred tokens.",
    OUTPUT_TARGET: "On a CPU, each product of the naive loop is efficient by itself from about 64 tokens a row: "
    "there the loop costs one and a half to twice the arithmetic that output mixing cannot avoid, one FFN per adapter "
    "over all rows. Output mixing is near that floor (five plain FFNs), so 3 x is out of reach there; at 64 "
    "tokens with backward, where the loop adds up a gradient per row and adapter, it is met.",
}


def t5_base(**more: Any) -> nn.Module:
    """One decoder block with T5-base's FFN, 768 / 3072, relu."""
    return T5ForConditionalGeneration(
        T5Config(vocab_size=32, d_model=768, d_ff=3072, num_layers=1, num_heads=12, dropout_rate=0.0, **more)
    )


def smollm2(**more: Any) -> nn.Module:
    """One block with SmolLM2-135M's FFN, 576 / 1536, gated silu."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **sizes, **more))


def make_layer(backbone: Callable[[], nn.Module], dtype: torch.dtype, device: str, **settings: Any) -> Any:
    """Return (handle, its decoder's MTA layer) with soft gates and adapters that differ."""
    torch.manual_seed(0)
    config = MTAConfig(layers="last_1", encoder_layers="none" if backbone is t5_base else None, **settings)
    mta = inject(backbone().to(device, dtype).eval(), config, TASKS, fingerprint=False)
    layer = mta.layers[-1]
    with torch.no_grad():
        for parameter in layer.tasks.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    mta.open_gates(0.6)
    mta.set_trainable({"task_adapters", "shared_adapters", "gates"})
    return mta, layer


def naive(layer: MTALayer, hidden: Tensor, tasks: list[int]) -> Tensor:
    """Output mixing as a loop over rows and adapters, each FFN on its own: the shape of the reference code."""
    bank = layer.tasks[0]
    act = getattr(layer.base, layer.ffn.activation)
    gates = layer.gate.table().to(hidden.dtype)
    up, down = bank.weight["up"].unbind(0), bank.weight["down"].unbind(0)
    gate = bank.weight["gate"].unbind(0) if "gate" in bank.weight else None
    rows = []
    for x, task in zip(hidden, tasks, strict=True):
        total = torch.zeros_like(x)
        for k in range(len(up)):
            inner = act(F.linear(x, up[k])) if gate is None else act(F.linear(x, gate[k])) * F.linear(x, up[k])
            total = total + gates[task, k] * (inner @ down[k])
        rows.append(total)
    return torch.stack(rows)


def variants(
    backbone: Callable[[], nn.Module], dtype: torch.dtype, device: str, seq: int, rows: int = ROWS
) -> dict[str, Any]:
    """Return, per variant, (function of hidden, parameters that train)."""
    order = random.Random(0)
    tasks = [i % len(TASKS) for i in range(rows)]
    order.shuffle(tasks)
    found: dict[str, Any] = {}
    settings = {
        "weight": {"mixing": "weight", "adapter": "ffn", "shared_adapters": 0},
        "output": {"mixing": "output", "adapter": "ffn", "shared_adapters": 0},
        "lora": {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"},
    }
    for name, chosen in settings.items():
        mta, layer = make_layer(backbone, dtype, device, **chosen)

        def run(hidden: Tensor, mta: Any = mta, layer: Any = layer) -> Tensor:
            with mta.routing(tasks):
                return layer(hidden)

        parameters = [p for p in layer.parameters() if p.requires_grad]
        found[name] = (run, parameters)
        if name == "output":
            found["naive"] = (lambda hidden, layer=layer: naive(layer, hidden, tasks), parameters)
    base = make_layer(backbone, dtype, device)[1].base
    found["plain"] = (base, [p.requires_grad_() for p in base.parameters()])
    width = next(base.parameters()).shape[-1]
    hidden = torch.randn(rows, seq, width, dtype=dtype, device=device)
    with torch.no_grad():  # what is timed must also be right
        gap = (found["naive"][0](hidden) - found["output"][0](hidden)).abs().max() / hidden.abs().max()
    assert gap < (0.05 if dtype == torch.bfloat16 else 1e-3), f"output mixing differs from the naive loop by {gap}"
    return found | {"hidden": hidden}


def timed(function: Callable[[], Any], device: str, inner: int) -> float:
    """Return seconds per call over `inner` calls."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(inner):
        function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (clock() - start) / inner


def steps(found: dict[str, Any], backward: bool) -> dict[str, Callable[[], Any]]:
    """Return one call per variant: forward with gradients off, or forward and backward into what trains."""
    hidden = found["hidden"]

    def forward(run: Any) -> None:
        with torch.no_grad():
            run(hidden)

    def both(run: Any, parameters: Any) -> None:
        x = hidden.detach().requires_grad_()
        torch.autograd.grad(run(x), [x, *parameters], grad_outputs=hidden)

    return {
        name: (lambda run=run, p=p: both(run, p)) if backward else (lambda run=run: forward(run))
        for name, (run, p) in ((name, found[name]) for name in VARIANTS)
    }


def measure(found: dict[str, Any], backward: bool, device: str, repeats: int) -> dict[str, float]:
    """Return milliseconds (median) per variant, and ratios (median of ratios within a repeat)."""
    calls = steps(found, backward)
    inner = {}
    for name, call in calls.items():
        first = timed(call, device, 1)
        # A first run warms up too, so only a quick one is worth a second look.
        again = first if first > LEAST_SECONDS else timed(call, device, 3)
        inner[name] = max(1, int(LEAST_SECONDS / max(again, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, device, inner[name]))
    row = {f"{name} ms": 1e3 * statistics.median(values) for name, values in seconds.items()}
    for top, bottom in (("weight", "plain"), ("lora", "plain"), ("output", "plain"), ("naive", "output")):
        pairs = zip(seconds[top], seconds[bottom], strict=True)
        row[f"{top} / {bottom}"] = statistics.median(a / b for a, b in pairs)
    return row


def as_markdown(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the table, what was measured and on what, and the targets that were missed."""
    ratios = [name for name in rows[0] if " / " in name]
    head = ["FFN", "dtype", "seq", "pass", *(f"{TITLES[v]} (ms)" for v in VARIANTS), *ratios]
    lines = [
        "# One MTA layer",
        "",
        f"{ROWS} rows mixing {len(TASKS)} tasks, {len(TASKS)} ffn adapters, soft gates. Forward: gradients off, eval "
        "mode (weight mixing keeps the weights it formed). Forward + backward: formed anew each time, gradients of "
        "input, adapters and gates; of the plain FFN, input and its weights.",
        f"{about['device']}, torch {about['torch']}, {about['threads']} threads, {about['repeats']} repeats, "
        f"variants interleaved; {about['clock']}, median milliseconds, median of ratios within a repeat.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for row in rows:
        cells = [row["ffn"], row["dtype"], str(row["seq"]), row["pass"]]
        cells += [f"{row[f'{v} ms']:.2f}" for v in VARIANTS] + [f"{row[r]:.2f}" for r in ratios]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for target, holds in TARGETS.items():
        missed = [f"{r['ffn']} {r['dtype']} seq {r['seq']} {r['pass']}" for r in rows if not holds(r)]
        lines.append(f"- {target}: {'met' if not missed else 'missed at ' + '; '.join(missed)}")
        if missed:
            lines.append(f"  {WHY_MISSED[target]}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all shapes, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cuda = arguments.device.startswith("cuda")
    about = {
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "clock": "CPU time" if not cuda and arguments.threads == 1 else "wall time",
    }
    print(about, flush=True)
    rows: list[dict[str, Any]] = []
    for dtype, backbone, seq in itertools.product((torch.bfloat16, torch.float32), (t5_base, smollm2), SEQS):
        found = variants(backbone, dtype, arguments.device, seq)
        for backward in (False, True):
            row = {
                "ffn": "T5-base 768/3072" if backbone is t5_base else "SmolLM2 576/1536 gated",
                "dtype": str(dtype).removeprefix("torch."),
                "seq": seq,
                "pass": "forward + backward" if backward else "forward",
                **measure(found, backward, arguments.device, arguments.repeats),
            }
            rows.append(row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            write(arguments.out, "mta_layer_cuda" if cuda else "mta_layer", about, rows)
    print(as_markdown(about, rows))


def write(out: Path, name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the table as JSON and Markdown; called after every row, for a long run may be cut short."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (out / f"{name}.md").write_text(as_markdown(about, rows))


if __name__ == "__main__":
    main()
