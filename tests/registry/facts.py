"""Card facts of a made-up version, with texts that try to break out of Markdown and HTML."""

import random
from typing import Any

from registry.facts import CardFacts

EVIL = "<script>document.title='pwned'</script> | **bold** [x](javascript:alert(1)) ![i](http://example.org/i.png)"
TASKS = {"intent": "accuracy", "title": "rouge_l", "due": "token_f1"}
ADAPTERS = ("shared", *TASKS)


def scorecard(level: float, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    tasks: dict[str, Any] = {}
    rows: dict[str, dict[str, float]] = {}
    for number, (task, metric) in enumerate(TASKS.items()):
        value = level + 0.05 * number
        tasks[task] = {
            "metric": metric,
            "metrics": {metric: {"value": value, "low": value - 0.04, "high": value + 0.04}},
            "rows": 200,
            "truncated": 1,
            "majority": 0.3 if task == "intent" else None,
            "confusion": {"labels": ["bill", "card"], "counts": [[90, 10], [30, 70]]} if task == "intent" else None,
        }
        right = [float(row < round(200 * value)) for row in range(200)]
        rng.shuffle(right)
        rows[task] = {f"{task}-{row}": score for row, score in enumerate(right)}
    tasks["intent"] |= {
        "calibration": {
            "temperature": 1.5,
            "reason": "",
            "validation_rows": 50,
            "before": {"error": 0.081, "bins": [[0.65, 0.5, 80], [0.95, 0.875, 120]]},
            "after": {"error": 0.022, "bins": [[0.62, 0.6, 90], [0.85, 0.85, 110]]},
        },
        "abstention": {"below": 0.6, "share": 0.125, "rest": 0.8},
        "doubted": {
            "looked_at": 250,
            "found": 12,
            "rows": [
                {
                    "place": f"rows.jsonl:{row}",
                    "input": f"doubted {row} {EVIL}",
                    "label": "bill",
                    "likely": "card",
                    "probability": 0.004 * row,
                }
                for row in range(12)
            ],
        },
    }
    macro = level + 0.05
    samples = [
        {
            "task": task,
            "id": f"{task}-{row}",
            "input": f"input {row} of {task} {EVIL if row else ''}",
            "target": "bill",
            "prediction": "bill" if row else "card",
            "score": 0.875,
            "truncated": row == 1,
        }
        for task in TASKS
        for row in range(2)
    ]
    return {
        "tasks": tasks,
        "macro": {"value": macro, "low": macro - 0.02, "high": macro + 0.02},
        "row_scores": rows,
        "samples": samples,
    }


def card_facts(domain: str = "support", level: float = 0.7) -> CardFacts:
    gates = {
        moment: {
            f"layers.{layer}": {
                task: {adapter: home if adapter == task else (1 - home) / 3 for adapter in ADAPTERS} for task in TASKS
            }
            for layer in (4, 5)
        }
        for moment, home in (("before", 0.5), ("after", 0.7))
    }
    return {
        "domain": domain,
        "description": f"Sorts and titles what customers write. {EVIL}",
        "created": "2026-11-21T09:00:00+00:00",
        "tasks": {
            task: {
                "type": "generation",
                "description": f"The {task} of a message. {EVIL}",
                "licence": "CC-BY-4.0" if task == "intent" else "",
                "rows": {"train": 1234, "validation": 50, "test": 200},
                "labels": ["bill", "card"] if task == "intent" else [],
                "source": "data/*.jsonl",
            }
            for task in TASKS
        },
        "scorecards": {
            "zero_shot": scorecard(0.1, 1),
            "stage_one": scorecard(level - 0.05, 2),
            "champion": scorecard(level - 0.02, 3),
            "stage_two": scorecard(level, 4),
        },
        "champion_version": 7,
        "data": {"digest": "0123456789abcdef", "quality": {"outcome": "warn", "warnings": ["title: 12% are long"]}},
        "backbone": {
            "model": "org/small",
            "revision": "main",
            "licence": "Apache-2.0",
            "digest": "fedcba9876543210",
            "parameters": 134_500_000,
            "notes": ["weights beside the model that are not read: old.safetensors"],
        },
        "parameters": {"total": 150_000_000, "trained": 18_900_000},
        "costs": {
            "stage_one": {"train_seconds": 100.0, "flops": 2e13, "peak_memory_mb": 2000, "trained_parameters": 15.9e6},
            "stage_two": {"train_seconds": 15.0, "flops": 3e12, "peak_memory_mb": 1900, "trained_parameters": 3e6},
        },
        "opening": {"before": 0.512, "opened": 0.509},
        "decision": {"promote": True, "reason": "macro score +0.021 over 3 tasks", "numbers": {}},
        "versions": {"run key": "aaaabbbbccccdddd", "MLflow run": "0badc0de"},
        "training": {
            "stage_one": [{"step": step, "loss": 2.0 / (1 + step)} for step in range(30)],
            "stage_two": [{"step": step, "loss": 0.5} for step in range(10)],
        },
        "gates": gates,
        "lengths": {
            task: {
                "input": {str(tokens): 200 - abs(tokens - 60) for tokens in range(10, 180, 3)},
                "target": {"1": 700, "2": 500, "3": 34},
            }
            for task in TASKS
        },
    }
