"""Ingestion and validation of 100,000 and 1,000,000 rows over five tasks, JSONL and Parquet mixed.

    python benchmarks/data.py [ROWS ...]

Each size runs in a process of its own, so that its peak memory is its own. Targets at 1,000,000 rows on 2 cores: 90 s,
and 1.5 GB. `cpu_seconds` is the time of all threads, which leaves out what other programs take. Results of the sizes
that the targets are for go to benchmarks/results/data.json; those of other sizes are only printed.
"""

import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

SIZES = (100_000, 1_000_000)
TARGET_SECONDS, TARGET_MB = 90, 1500
RESULTS = Path(__file__).parent / "results" / "data.json"
SPEC = """
name: bench
backbone: {{model: none}}
split: {{test: 0.05, validation: 0.05}}
tasks:
  - {{name: topic, type: classification, source: {{path: topic/*.jsonl}}, labels: [{labels}]}}
  - {{name: pair, type: pair_classification, source: {{path: pair/*.parquet}}, labels: ["yes", "no"]}}
  - name: span
    type: extraction
    source: {{path: span/*.jsonl, template: "question: {{question}} context: {{text}}", columns: {{target: answer}}}}
  - {{name: headline, type: generation, source: {{path: headline/*.parquet, columns: {{input: body, target: title}}}}}}
  - {{name: rewrite, type: generation, source: {{path: rewrite/*.jsonl}}}}
stage_one: {{trains: [adapters], steps: 1}}
"""


def make_rows(folder: Path, rows: int) -> None:
    """Write `rows` rows over five tasks, about 40 words each, 2 % of them duplicates, and the spec."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(5000)]
    labels = [f"label {n}" for n in range(10)]
    (folder / "domain.yaml").write_text(SPEC.format(labels=", ".join(labels)))

    def text(count: int) -> str:
        return " ".join(chance.choices(words, k=count))

    def row(task: str) -> dict[str, str]:
        body = text(chance.randint(20, 60))
        if task == "topic":
            return {"input": body, "target": chance.choice(labels)}
        if task == "pair":
            return {"input": f"premise: {body} hypothesis: {text(8)}", "target": chance.choice(["yes", "no"])}
        if task == "span":
            return {"question": text(6), "text": body, "answer": " ".join(body.split()[3:5])}
        return {"body": body, "title": text(8)} if task == "headline" else {"input": body, "target": text(12)}

    for task in ("topic", "pair", "span", "headline", "rewrite"):
        (folder / task).mkdir()
        for part in range(4):
            made = [row(task) for _ in range(rows // 20)]
            made[-len(made) // 50 :] = made[: len(made) // 50]
            if task in ("pair", "headline"):
                pq.write_table(pa.Table.from_pylist(made), folder / task / f"{part}.parquet")
            else:
                with (folder / task / f"{part}.jsonl").open("w") as file:
                    file.writelines(json.dumps(each) + "\n" for each in made)


def measure(folder: Path) -> None:
    """Ingest and validate the domain in `folder`; print times and peak memory as JSON."""
    start = perf_counter()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from alter_core.data.ingest import ingest
    from alter_core.quality.report import validate
    from alter_core.spec.load import load_domain
    from alter_core.workspace import Workspace

    spec = load_domain(folder)
    imported = perf_counter()
    dataset = ingest(spec, folder, Workspace(folder / "home"))
    ingested = perf_counter()
    ingest_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sample = dataset.rows("train", "topic")[:2000]["input"]
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(sample, trainer)
    trained = perf_counter()
    report = validate(dataset, spec, PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    validated = perf_counter()
    again = ingest(spec, folder, Workspace(folder / "home"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "rows": sum(task["read"] for task in dataset.manifest["tasks"].values()),
        "kept": sum(sum(task["rows"].values()) for task in dataset.manifest["tasks"].values()),
        "outcome": report.outcome,
        "import_seconds": round(imported - start, 1),
        "ingest_seconds": round(ingested - imported, 1),
        "ingest_peak_mb": round(ingest_mb),
        "validate_seconds": round(validated - trained, 1),
        "seconds": round(validated - start - (trained - ingested), 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "unchanged_seconds": round(perf_counter() - validated, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    assert again.digest == dataset.digest
    print(json.dumps(result))


def main(sizes: list[int]) -> None:
    """Measure each size, print a table, and keep the results of the sizes that the targets are for."""
    results = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            make_rows(Path(name), rows)
            done = subprocess.run([sys.executable, __file__, "--measure", name], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{key} {value}" for key, value in results[-1].items()))
    if tuple(sizes) != SIZES:
        return
    load = os.getloadavg()[0]
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load_average": round(load, 1)}
    targets = {"seconds": TARGET_SECONDS, "peak_mb": TARGET_MB, "rows": SIZES[-1]}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "targets": targets, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
    else:
        main([int(given) for given in sys.argv[1:]] or list(SIZES))
