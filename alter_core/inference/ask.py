"""Asks what `alter export` wrote, which has a copy of this program: by transformers (and peft), or by llama.cpp.

python ask.py TASK [INPUT]     the answer and its probability; without INPUT, to the row in alter_export.json
python ask.py < rows.jsonl     lines {"task": ..., "input": ...}; a line {"answer", "probability", "cut"} for each,
                               whose answer is null where an input cannot be read as the text that it is

GGUF files are read by the package xllamacpp, or by the llama-server at the address LLAMA_SERVER.
"""

import json
import math
import os
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

Encoded = tuple[list[int], list[tuple[int, int]], int]
"""Token ids of a text, the characters that each stands for, and how many of them are special tokens."""


class Export:
    """The models of one folder."""

    def __init__(self, folder: Path, about: Any) -> None:
        self.tasks = about["tasks"]

    def answer(self, name: str, text: str) -> tuple[str, float | None, bool]:
        """The answer; its probability, among the labels or as the mean of its tokens' (None where the engine does not
        tell); whether the input was cut."""
        ids, cut = self.prompt(self.tasks[name], unicodedata.normalize("NFC", text).strip())
        return *self.write(name, ids), cut

    def prompt(self, task: Any, text: str) -> tuple[list[int], bool]:
        """The ids of the prompt, whose input is cut before the first token too many."""
        before, after, kept = task["before_input"], task["after_input"], text
        *_, bare = self.encode(before + after)
        while True:
            ids, places, special = self.encode(before + kept + after)
            if special > bare:  # the input spells out a special token: it is read as the characters that it is
                ids, places, special = self.encode(before + kept + after, spelt=True)
            if special != bare:
                raise ValueError("the input spells out a special token of the tokenizer, and would be read as that")
            end = len(before) + len(kept)
            inside = [begin for begin, stop in places if begin < end and stop > len(before)]
            most = task["max_input_tokens"]
            if task["max_prompt_tokens"] is not None:
                most = max(0, min(most, task["max_prompt_tokens"] - (len(ids) - len(inside))))
            if len(inside) <= most or not kept:
                return ids, kept != text
            shorter = kept[: max(0, inside[most] - len(before))].rstrip()
            kept = shorter if len(shorter) < len(kept) else kept[:-1]

    def encode(self, text: str, spelt: bool = False) -> Encoded:
        """A text as it is read; spelt: without the special tokens that it spells out."""
        raise NotImplementedError

    def write(self, name: str, ids: list[int]) -> tuple[str, float | None]:
        """The answer to a prompt, and its probability."""
        raise NotImplementedError


def allowed(task: Any, written: list[int]) -> list[int]:
    """The tokens that may follow what is written of a label; none when it is whole."""
    labels = [label for label in task["label_ids"].values() if label[: len(written)] == written]
    return sorted({label[len(written)] for label in labels if len(label) > len(written)})


class ByTransformers(Export):
    """A plain model, with a LoRA of each task where there are any."""

    def __init__(self, folder: Path, about: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        super().__init__(folder, about)
        self.seq2seq = about["encoder_decoder"]
        kind: Any = AutoModelForSeq2SeqLM if self.seq2seq else AutoModelForCausalLM
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder / about["model"])
        self.model = kind.from_pretrained(folder / about["model"], dtype=torch.float32).eval()
        adapters = {name: folder / task["adapter"] for name, task in self.tasks.items() if task["adapter"]}
        for number, (name, place) in enumerate(adapters.items()):
            if number:
                self.model.load_adapter(place, adapter_name=name)
            else:
                from peft import PeftModel

                self.model = PeftModel.from_pretrained(self.model, place, adapter_name=name)

    def encode(self, text: str, spelt: bool = False) -> Encoded:
        found = self.tokenizer(text, return_offsets_mapping=True, split_special_tokens=spelt)
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        return found["input_ids"], found["offset_mapping"], sum(token in special for token in found["input_ids"])

    def write(self, name: str, ids: list[int]) -> tuple[str, float]:
        import torch

        task, start = self.tasks[name], 1 if self.seq2seq else len(ids)
        heat = task["temperature"] if task["label_ids"] else 1.0
        end = self.tokenizer.eos_token_id
        only = {"prefix_allowed_tokens_fn": lambda _, so_far: allowed(task, so_far[start:].tolist()) or [end]}
        if task["adapter"]:
            self.model.set_adapter(name)
        with torch.inference_mode():
            prompt = torch.tensor([ids])
            out = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=task["max_new_tokens"],
                return_dict_in_generate=True,
                output_scores=True,
                **(only if task["label_ids"] else {}),
            )
            written = out.sequences[0, start:]
            steps = zip(out.scores, written, strict=True)
            logs = torch.stack([(step[0].float() / heat).log_softmax(-1)[token] for step, token in steps])
        probability = (logs.sum() if task["label_ids"] else logs.mean()).exp()
        return self.tokenizer.decode(written, skip_special_tokens=True).strip(), float(probability)


class ByLlama(Export):
    """GGUF files, through llama.cpp's server."""

    def __init__(self, folder: Path, about: Any) -> None:
        super().__init__(folder, about)
        self.at = os.environ.get("LLAMA_SERVER") or self._started(folder, about)
        adapters = {Path(one["path"]).stem: one["id"] for one in self._get("/lora-adapters")}
        self.loras = {
            name: [{"id": adapters[name], "scale": 1.0}] for name, task in self.tasks.items() if task["adapter"]
        }
        self.front: list[int] = self._get("/tokenize", content="", add_special=True)["tokens"]

    def _started(self, folder: Path, about: Any) -> str:
        import xllamacpp

        wanted = xllamacpp.CommonParams()
        wanted.model.path = str(folder / about["model"])
        wanted.port, wanted.warmup, wanted.verbosity = 0, False, 0
        wanted.n_ctx = max(task["context"] for task in self.tasks.values())
        # In fp32 throughout: what llama.cpp takes by itself keeps keys and values in fp16.
        wanted.cache_type_k = wanted.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        wanted.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        wanted.lora_init_without_apply = True
        given = []
        for task in self.tasks.values():
            if task["adapter"]:
                given.append(xllamacpp.CommonAdapterLoraInfo())
                given[-1].path = str(folder / task["adapter"])
        wanted.lora_adapters = given
        self.server: Any = xllamacpp.Server(wanted)
        return str(self.server.listening_address)

    def _get(self, path: str, **given: Any) -> Any:
        body = json.dumps(given).encode() if given else None
        with urlopen(Request(self.at + path, body, {"Content-Type": "application/json"})) as answer:
            return json.load(answer)

    def encode(self, text: str, spelt: bool = False) -> Encoded:
        found = self._get("/tokenize", content=text, with_pieces=True, parse_special=False)["tokens"]
        ends, size = [], 0
        for token in found:
            piece = token["piece"]
            size += len(piece.encode() if isinstance(piece, str) else piece)
            ends.append(size)
        whole = text.encode()
        # A token may end within a character, which is then the next token's.
        places = [len(whole[:end].decode(errors="ignore")) for end in ends]
        return self.front + [token["id"] for token in found], list(zip([0, *places], places, strict=False)), 0

    def write(self, name: str, ids: list[int]) -> tuple[str, float | None]:
        task = self.tasks[name]
        if not task["label_ids"]:
            said = self._completed(name, ids, task["max_new_tokens"], 1)
            logs = [step["logprob"] for step in said.get("completion_probabilities", [])]
            # A token that ends within a character comes without its probability.
            whole = len(logs) == said["tokens_predicted"]
            return said["content"].strip(), math.exp(sum(logs) / len(logs)) if whole else None
        written: list[int] = []
        total = 0.0
        while following := allowed(task, written):
            if len(following) > 1:
                token, gained = self._likeliest(name, ids + written, following)
                total += gained
            else:
                (token,) = following
            written.append(token)
        label = next(label for label, tokens in task["label_ids"].items() if tokens == written)
        return label, math.exp(total)

    def _likeliest(self, name: str, ids: list[int], following: list[int]) -> tuple[int, float]:
        """Of the tokens that may follow the likeliest, and the logarithm of its share among them."""
        # What is written is one of ours, as a token that ends within a character comes without probabilities; those are
        # of before that bias.
        bias = [[token, 1000.0] for token in following]
        for shown in (200, 1_000_000):  # of all tokens, the likeliest, and where one of ours is not among them, all
            (step,) = self._completed(name, ids, 1, shown, logit_bias=bias)["completion_probabilities"]
            logs = {one["id"]: one["logprob"] for one in step["top_logprobs"] if one["id"] in following}
            if len(logs) == len(following):
                break
        best = max(logs, key=lambda token: logs[token])
        heat = self.tasks[name]["temperature"]
        return best, -math.log(sum(math.exp((log - logs[best]) / heat) for log in logs.values()))

    def _completed(self, name: str, ids: list[int], most: int, shown: int, **more: Any) -> Any:
        more |= {"lora": self.loras[name]} if name in self.loras else {}
        return self._get("/completion", prompt=ids, n_predict=most, temperature=0, n_probs=shown, **more)


def opened(folder: Path) -> Export:
    """The export in a folder."""
    about = json.loads((folder / "alter_export.json").read_text(encoding="utf-8"))
    return (ByLlama if about["format"] == "gguf" else ByTransformers)(folder, about)


def main(export: Export, given: list[str]) -> None:
    """Answer what the command line gives, or the rows of standard input."""
    if given:
        text = given[1] if len(given) > 1 else export.tasks[given[0]]["example"]["input"]
        answer, probability, cut = export.answer(given[0], text)
        told = "?" if probability is None else f"{probability:.4f}"
        sys.stdout.write(f"{answer}  ({told}{', of an input that was cut' if cut else ''})\n")
        return
    for line in sys.stdin:
        row = json.loads(line)
        said: tuple[str | None, float | None, bool] = (None, None, False)
        with suppress(ValueError):
            said = export.answer(row["task"], row["input"])
        sys.stdout.write(json.dumps(dict(zip(("answer", "probability", "cut"), said, strict=True))) + "\n")


if __name__ == "__main__":
    main(opened(Path(__file__).parent), sys.argv[1:])
