"""README.md of an export: what it is, how a prompt is made, and how engines are started with it."""

import json
import shlex
from typing import Any

from alter_core.inference.export_facts import ExportFacts, TaskFacts
from alter_core.inference.parity import Parity


def readme(facts: ExportFacts, parity: Parity | None) -> str:
    """facts: as they stand in alter_export.json."""
    tasks = facts["tasks"]
    first = next(iter(tasks))
    has_adapters = tasks[first]["adapter"] is not None
    head = _HEAD[facts["format"] if has_adapters or facts["format"] == "merged" else "model.gguf"]
    parts = [head.format(name=facts["name"], task=first), _tasks(facts), _prompt(facts), _asking(facts, first)]
    if facts["format"] == "gguf":
        parts += [_llama(facts, first), _ollama(facts, first)]
    elif has_adapters:
        parts.append(_vllm(facts, first))
    parts.append(_parity(parity))
    return "\n".join(parts)


_HEAD = {
    "merged": """# {name}: {task}

A plain transformers model of one task. `generation_config.json` makes `generate()` answer greedily, as the champion
does.
""",
    "peft": """# {name}: one base, and a LoRA for each task

`base/` is a plain transformers model, `adapters/TASK/` a LoRA as peft writes it. Load the base once and one adapter
for each task; the base alone answers none of them. A task that is added to the same version adds a folder and changes
neither the base nor the other folders.
""",
    "gguf": """# {name}: one base and a LoRA for each task, as GGUF files

`base.gguf` is a plain model, `adapters/TASK.gguf` a LoRA of it. Load the base once and one adapter for each task; the
base alone answers none of them. Numbers are those of the model; llama.cpp's `llama-quantize base.gguf smaller.gguf
q8_0` makes the base smaller, and answers somewhat otherwise.
""",
    "model.gguf": """# {name}: {task}, as one GGUF file

`model.gguf` is a plain model of one task. Numbers are those of the model; llama.cpp's `llama-quantize model.gguf
smaller.gguf q8_0` makes it smaller, and answers somewhat otherwise.
""",
}


def _tasks(facts: ExportFacts) -> str:
    has_rank = all(task["adapter"] for task in facts["tasks"].values())
    lines = [f"| task | {'rank | ' if has_rank else ''}answer | tokens of an input | of an answer |"]
    lines.append("| --- " * (5 if has_rank else 4) + "|")
    for name, task in facts["tasks"].items():
        rank = f"{task['rank']} | " if has_rank else ""
        kind = f"one of {len(task['labels'])} labels" if task["labels"] else "free text"
        lines.append(f"| {name} | {rank}{kind} | {task['max_input_tokens']} | {task['max_new_tokens']} |")
    return "\n".join(lines) + "\n"


def _prompt(facts: ExportFacts) -> str:
    task = next(iter(facts["tasks"].values()))
    parts = json.dumps([task["before_input"], "INPUT", task["after_input"]], ensure_ascii=False)
    joined = (
        "The prompt is one text, and its ids are those that the tokenizer gives for it."
        if facts["prompt_format"] > 1
        else "The model was taught by prompts whose three parts are encoded apart (`prompt_format` 1). Asked as one "
        "text, which is what engines and `ask.py` do, they give other ids, and answers may differ: see below how much."
    )
    return f"""## The prompt

```json
{parts}
```

{joined}

Of each task, `alter_export.json` has the parts (`before_input`, `after_input`), the labels, their token ids,
and a row with its prompt, ids and answer. An answer begins with a space and ends with the tokenizer's end token: a
choice between labels is one between `" label"` with that space. A label's probability is the product of that of each
token, among those that can follow, with their logits divided by the task's `temperature`. Inputs are Unicode NFC
without blanks at their ends, in the task's `layout`. The champion reads the first `max_input_tokens` tokens of an
input: `ask.py` cuts as it does, engines do not. A special token that an input spells out is read as characters by the
champion and by `ask.py`, and as the token by most engines.
"""


def _asking(facts: ExportFacts, task: str) -> str:
    needs = "the package xllamacpp, or the address of a llama-server of this folder in `LLAMA_SERVER`"
    if facts["format"] != "gguf":
        needs = "transformers, and peft where there are adapters"
    return f"""## Ask

`ask.py` needs {needs}. It computes in fp32.
Without an input it asks the row in `alter_export.json`.

```bash
python ask.py {shlex.quote(task)}
python ask.py {shlex.quote(task)} "INPUT"
```
"""


def _vllm(facts: ExportFacts, name: str) -> str:
    size, task = facts["vllm_max_lora_rank"], facts["tasks"][name]
    if size is None:
        return (
            "## vLLM\n\nIts `--max-lora-rank` ends below the rank of these adapters; `--format merged` serves a task.\n"
        )
    modules = " ".join(shlex.quote(f"{one}={about['adapter']}") for one, about in facts["tasks"].items())
    asked: dict[str, Any] = {"model": name, "prompt": task["example"]["prompt"], "temperature": 0}
    asked["max_tokens"] = task["max_new_tokens"]
    if task["labels"]:
        asked["structured_outputs"] = {"choice": [task["before_answer"] + label for label in task["labels"]]}
    request = shlex.quote(json.dumps(asked, ensure_ascii=False))
    return f"""## vLLM

A request names its task as the model. Before 0.12, `structured_outputs` was `guided_choice`, with the list itself.

```bash
vllm serve base --enable-lora --max-lora-rank {size} --max-loras {len(facts["tasks"])} --lora-modules {modules}
curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" -d {request}
```

vLLM has LoRA for a part of its architectures, and reads no encoder-decoder: its list of supported models says which.
"""


def _llama(facts: ExportFacts, name: str) -> str:
    task = facts["tasks"][name]
    adapters = [one["adapter"] for one in facts["tasks"].values() if one["adapter"]]
    loras = "".join(f" --lora {shlex.quote(one)}" for one in adapters)
    asked: dict[str, Any] = {"prompt": task["example"]["prompt"], "temperature": 0, "n_predict": task["max_new_tokens"]}
    if own := task["adapter"]:
        asked["lora"] = [{"id": adapters.index(own), "scale": 1}]
        loras += " --lora-init-without-apply"
    if task["labels"]:
        asked["grammar"] = _grammar(task)
    return f"""## llama.cpp

`id` is an adapter's place on the command line (`GET /lora-adapters`). Requests for different adapters are answered one
after the other. `TASK.gbnf` are the labels as a grammar. By itself llama-server keeps keys and values in fp16, which
moves probabilities a little; `ask.py` has them in fp32, as `--flash-attn off --cache-type-k f32 --cache-type-v f32`.

```bash
llama-server -m {facts["model"]}{loras}
curl http://127.0.0.1:8080/completion -d {shlex.quote(json.dumps(asked, ensure_ascii=False))}
```
"""


def _ollama(facts: ExportFacts, name: str) -> str:
    return f"""## Ollama

It takes no grammar for plain text, so that a task's labels are not enforced.

```bash
ollama create {shlex.quote(name)} -f Modelfile.{shlex.quote(name)}
ollama run {shlex.quote(name)} "INPUT"
```
"""


def engine_files(facts: ExportFacts) -> dict[str, str]:
    """Name -> text of what is written beside GGUF files: of each task a Modelfile, and its labels as a grammar."""
    if facts["format"] != "gguf":
        return {}
    files = {}
    for name, task in facts["tasks"].items():
        lines = [f"FROM ./{facts['model']}", *([f"ADAPTER ./{task['adapter']}"] if task["adapter"] else [])]
        before, after = (text.replace("{{", '{{"{{"}}') for text in (task["before_input"], task["after_input"]))
        lines += [f'TEMPLATE """{before}{{{{ .Prompt }}}}{after}"""', "PARAMETER temperature 0"]
        lines += [f"PARAMETER num_predict {task['max_new_tokens']}", f"PARAMETER num_ctx {task['context']}"]
        files[f"Modelfile.{name}"] = "\n".join([*lines, f'PARAMETER stop "{facts["end"]}"']) + "\n"
        if task["labels"]:
            files[f"{name}.gbnf"] = _grammar(task) + "\n"
    return files


def _grammar(task: TaskFacts) -> str:
    return "root ::= " + " | ".join(
        json.dumps(task["before_answer"] + label, ensure_ascii=False) for label in task["labels"]
    )


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return """## How far this is from the champion

Not measured: the package xllamacpp was not there when this was written. Install it and export again, or compare the
rows in `alter_export.json`.
"""
    return f"""## How far this is from the champion

{parity.rows} rows were asked of both; of this folder by {parity.asked_by}, in a process of its own.
{parity.different_answers} answers differ; where they are the same, a probability does by at most
{parity.largest_probability_difference:.1e}. `alter_export.json` has each row.
"""
