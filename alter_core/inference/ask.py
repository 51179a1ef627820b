"""Asks what `alter export` wrote, which has a copy of this program, by transformers (and peft) alone.

python ask.py TASK [INPUT]     the answer and its probability; without INPUT, to the row in alter_export.json
python ask.py < rows.jsonl     lines {"task": ..., "input": ...}; a line {"answer", "probability", "cut"} for each
"""

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer


class Export:
    """The models of one folder."""

    def __init__(self, folder: Path) -> None:
        self.about: Any = json.loads((folder / "alter_export.json").read_text(encoding="utf-8"))
        model = folder / self.about["model"]
        kind = AutoModelForSeq2SeqLM if self.about["encoder_decoder"] else AutoModelForCausalLM
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.model: Any = kind.from_pretrained(model, dtype=torch.float32).eval()
        adapters = {name: folder / task["adapter"] for name, task in self.about["tasks"].items() if task["adapter"]}
        for number, (name, place) in enumerate(adapters.items()):
            if number:
                self.model.load_adapter(place, adapter_name=name)
            else:
                from peft import PeftModel

                self.model = PeftModel.from_pretrained(self.model, place, adapter_name=name)

    @torch.inference_mode()
    def answer(self, name: str, text: str) -> tuple[str, float, bool]:
        """The answer; its probability, among the labels or as the mean of its tokens'; whether the input was cut."""
        task = self.about["tasks"][name]
        ids, cut = self.prompt(task, unicodedata.normalize("NFC", text).strip())
        start = 1 if self.about["encoder_decoder"] else len(ids)

        def allowed(_: int, so_far: Any) -> list[int]:
            """The tokens that may follow, where the answer is one of the labels."""
            written = so_far[start:].tolist()
            begun = [label for label in task["label_ids"].values() if label[: len(written)] == written]
            return [label[len(written)] for label in begun if len(label) > len(written)] or [
                self.tokenizer.eos_token_id
            ]

        if task["adapter"]:
            self.model.set_adapter(name)
        prompt = torch.tensor([ids])
        out = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=task["max_new_tokens"],
            return_dict_in_generate=True,
            output_scores=True,
            **({"prefix_allowed_tokens_fn": allowed} if task["label_ids"] else {}),
        )
        written = out.sequences[0, start:]
        logs = torch.stack([step[0].float().log_softmax(-1)[token] for step, token in zip(out.scores, written)])  # noqa: B905
        probability = (logs.sum() if task["label_ids"] else logs.mean()).exp()
        return self.tokenizer.decode(written, skip_special_tokens=True).strip(), float(probability), cut

    def prompt(self, task: Any, text: str) -> tuple[list[int], bool]:
        """The ids of the prompt, whose input is cut before the first token too many."""
        before, after, kept = task["before_input"], task["after_input"], text
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        bare = sum(token in special for token in self.tokenizer(before + after)["input_ids"])
        while True:
            encoded = self.tokenizer(before + kept + after, return_offsets_mapping=True)
            ids, end = encoded["input_ids"], len(before) + len(kept)
            if sum(token in special for token in ids) > bare:
                raise ValueError(
                    "the input spells out one of the tokenizer's special tokens, which would be read as such"
                )
            inside = [begin for begin, stop in encoded["offset_mapping"] if begin < end and stop > len(before)]
            most = task["max_input_tokens"]
            if task["max_prompt_tokens"] is not None:
                most = max(0, min(most, task["max_prompt_tokens"] - (len(ids) - len(inside))))
            if len(inside) <= most or not kept:
                return ids, kept != text
            shorter = kept[: max(0, inside[most] - len(before))].rstrip()
            kept = shorter if len(shorter) < len(kept) else kept[:-1]


def main(export: Export, given: list[str]) -> None:
    """Answer what the command line gives, or the rows of standard input."""
    if given:
        task = export.about["tasks"][given[0]]
        answer, probability, cut = export.answer(given[0], given[1] if len(given) > 1 else task["example"]["input"])
        sys.stdout.write(f"{answer}  ({probability:.4f}{', of an input that was cut' if cut else ''})\n")
        return
    for line in sys.stdin:
        row = json.loads(line)
        answer, probability, cut = export.answer(row["task"], row["input"])
        sys.stdout.write(json.dumps({"answer": answer, "probability": probability, "cut": cut}) + "\n")


if __name__ == "__main__":
    main(Export(Path(__file__).parent), sys.argv[1:])
