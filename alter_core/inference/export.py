"""One task as a folder that needs transformers alone: plain weights, how to ask them, and a row to try.

alter_task.json    the prompt's parts, the labels with their token ids, and a row with its prompt, ids and answer
README.md          the same for people, with a program that asks the model
"""

import json
from pathlib import Path
from typing import Any

from alter_core.errors import BundleError
from alter_core.inference.predict import Predictor
from alter_core.inference.recorded_spec import recorded_format, recorded_spec
from alter_core.mta.bundle import load_bundle
from alter_core.mta.folding import export
from alter_core.prompts import answer_text, encode_prompts, encode_targets, longest_answer, prompt_text
from alter_core.spec import TaskSpec
from alter_core.text import tidied
from alter_core.whole import write_json, written_whole

TASK_FILE = "alter_task.json"
PROGRAM = """import json
from transformers import AutoModelFor{kind}, AutoTokenizer

folder = "."
task = json.load(open(f"{{folder}}/alter_task.json", encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelFor{kind}.from_pretrained(folder).eval()


def answer(text):
    prompt = tokenizer(task["before_input"] + text + task["after_input"], return_tensors="pt")
    start = prompt["input_ids"].shape[1] if {causal} else 1

    def allowed(_, ids):  # the tokens that may follow, where the answer is one of the labels
        written = ids[start:].tolist()
        return [label[len(written)] for label in task["label_ids"].values()
                if label[: len(written)] == written and len(label) > len(written)] or [tokenizer.eos_token_id]

    only = {{"prefix_allowed_tokens_fn": allowed}} if task["label_ids"] else {{}}
    written = model.generate(**prompt, **only)[0][start:]
    return tokenizer.decode(written, skip_special_tokens=True).strip()


print(answer(task["example"]["input"]))
"""


def export_task(bundle: Path, name: str, target: Path, approximate: bool = False, row: str | None = None) -> None:
    """Write a task of a bundle to `target`, which appears whole or not at all. row: the input to try.

    Raises MTAError as `mta.export` does, BundleError for a bundle that cannot be read.
    """
    mta, tokenizer, metadata = load_bundle(bundle)  # in its own precision, not in what computes fastest here
    spec, form = recorded_spec(metadata, bundle), recorded_format(metadata, bundle)
    task = next((each for each in spec.tasks if each.name == name), None)
    if tokenizer is None:
        raise BundleError(f"{bundle} holds no tokenizer, without which nothing can be asked: save the bundle with it")
    if task is None:
        export(mta, tokenizer, name, target)  # which says what tasks there are
        return
    labels = encode_targets(tokenizer, task, task.labels or (), form)
    most = max(map(len, labels)) if labels else longest_answer(task)
    text = tidied(row or "The red ball is in the garden.", task.layout)
    predictor = Predictor(mta.model, tokenizer, spec, mta, prompt_format=form)
    (said,) = predictor.predict([name], [text])
    ([ids], [cut]) = encode_prompts(tokenizer, task, [text], None, form)
    before, after = prompt_text(task, "\0").split("\0")
    facts: dict[str, Any] = {
        "task": name,
        "type": task.type,
        "prompt_format": form,
        "before_input": before,
        "after_input": after,
        "before_answer": answer_text(""),
        "layout": task.layout,
        "max_input_tokens": task.max_input_tokens,
        "max_new_tokens": most,
        "labels": list(task.labels or ()),
        "label_ids": dict(zip(task.labels or (), labels, strict=True)),
        "example": {
            "input": text,
            "prompt": prompt_text(task, text),
            "prompt_ids": ids,
            "as_one_text": tokenizer(prompt_text(task, text))["input_ids"] == ids,
            "cut": cut,
            "answer": said.text,
        },
    }
    model: Any = mta.model
    seq2seq: bool = model.config.is_encoder_decoder
    with written_whole(target) as work:
        export(mta, tokenizer, name, work, approximate=approximate, most=most)
        write_json(work / TASK_FILE, facts)
        (work / "README.md").write_text(_readme(task, facts, seq2seq), encoding="utf-8")


def _readme(task: TaskSpec, facts: dict[str, Any], seq2seq: bool) -> str:
    program = PROGRAM.format(kind="Seq2SeqLM" if seq2seq else "CausalLM", causal=not seq2seq)
    joined = (
        "The prompt is one text, and the ids are those that the tokenizer gives for it:"
        if facts["prompt_format"] > 1
        else "The prompt's three parts are encoded apart and their ids joined (`prompt_format` 1: joined as text they "
        "give other ids). An answer may differ where it is asked as one text:"
    )
    answers = (
        f"The answer is one of {len(facts['labels'])} labels. `labels` has them, `label_ids` the tokens of each as "
        "they follow the prompt; the program allows no others."
        if facts["labels"]
        else f"The answer is free text of at most {facts['max_new_tokens']} tokens, its end token included."
    )
    return f"""# {task.name}

A plain transformers model of one task, without MTA layers. `generation_config.json` makes `generate()` answer greedily,
as the champion does.

{joined}

```json
{json.dumps([facts["before_input"], "INPUT", facts["after_input"]], ensure_ascii=False)}
```

Inputs are Unicode NFC without blanks at their ends, layout `{facts["layout"]}`; the champion reads the first
{facts["max_input_tokens"]} tokens of an input. A special token that an input spells out must be given as characters
(`split_special_tokens=True`), or the tokenizer reads it as the token. {answers}

```python
{program}```

With the row in `{TASK_FILE}` it prints what the champion answers:

```text
{facts["example"]["answer"]}
```
"""
