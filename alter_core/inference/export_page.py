"""README.md of an export, and what engines need beside it: how it is asked, and how they are started."""

import json
import shlex
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from alter_core.inference.export_facts import ExportFacts, TaskFacts
from alter_core.inference.parity import Parity

TEMPLATE = "export_page.md.j2"


def readme(facts: ExportFacts, parity: Parity | None) -> str:
    """facts: as they stand in alter_export.json."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )  # Markdown: nothing is escaped
    environment.filters["quote"] = shlex.quote
    template = environment.from_string(files("alter_core.inference").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    first, task = next(iter(facts["tasks"].items()))
    return template.render(
        facts=facts,
        parity=parity,
        first=first,
        prompt=_json([task["before_input"], "INPUT", task["after_input"]]),
        vllm_request=_json(_vllm_request(first, task)),
        llama_request=_json(_llama_request(facts, task)),
    )


def _vllm_request(name: str, task: TaskFacts) -> dict[str, object]:
    asked: dict[str, object] = {"model": name, "prompt": task["example"]["prompt"], "temperature": 0}
    asked["max_tokens"] = task["max_new_tokens"]
    if task["labels"]:
        asked["structured_outputs"] = {"choice": [task["before_answer"] + label for label in task["labels"]]}
    return asked


def _llama_request(facts: ExportFacts, task: TaskFacts) -> dict[str, object]:
    asked: dict[str, object] = {"prompt": task["example"]["prompt"], "temperature": 0}
    asked["n_predict"] = task["max_new_tokens"]
    if own := task["adapter"]:
        adapters = [one["adapter"] for one in facts["tasks"].values() if one["adapter"]]
        asked["lora"] = [{"id": adapters.index(own), "scale": 1}]
    if task["labels"]:
        asked["grammar"] = _grammar(task)
    return asked


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
    return "root ::= " + " | ".join(_json(task["before_answer"] + label) for label in task["labels"])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
