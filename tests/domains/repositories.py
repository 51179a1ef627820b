"""Small made-up repositories, each of the layout that a domain's rows.py reads, as bare ones under `owner/name.git`."""

import csv
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape
from zipfile import ZipFile

from domains.assistant import rows as assistant
from domains.clinical import rows as clinical
from domains.scholarly import rows as scholarly

SIZES = {"train": 60, "test": 30}
Files = Mapping[str, str | bytes]


@dataclass(frozen=True)
class MadeUp:
    """The commit that a made-up repository has, and the digest of its licence."""

    commit: str
    licence_digest: str


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "nobody@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def publish(name: str, files: Files, remotes: Path, scratch: Path) -> MadeUp:
    """One commit of `files` in a bare repository that sends parts of a tree, as the public ones do."""
    work = scratch / name
    for path, content in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    git(work, "init", "--quiet", "--initial-branch", "main")
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message", "made up")
    bare = remotes / f"{name}.git"
    bare.parent.mkdir(parents=True, exist_ok=True)
    git(work, "clone", "--quiet", "--bare", str(work), str(bare))
    git(bare, "config", "uploadpack.allowFilter", "true")
    licence = next(r.licence for module in MODULES for r in module.REPOSITORIES if r.name == name)
    return MadeUp(git(work, "rev-parse", "HEAD"), hashlib.sha256((work / licence).read_bytes()).hexdigest())


def polyai() -> Files:
    intents = {f"intent_{n}": {"description": f"is it about thing {n}?", "domain": ["general"]} for n in range(6)}
    files: dict[str, str | bytes] = {
        "LICENSE": "CC BY 4.0, made up",
        "nlupp/data/ontology.json": dumped({"intents": intents}),
    }
    for side, size in SIZES.items():
        files[f"banking_data/{side}.csv"] = table(
            ("text", "category"), [(f"{side} asks,\n  about card {n}", f"card_{n % 3}") for n in range(size)]
        )
        for data_set in ("restaurant8k", *(f"dstc8/{name}" for name in assistant.BOOKINGS)):
            name = "train_0" if side == "train" else side
            files[f"span_extraction/{data_set}/{name}.json"] = dumped(
                [spans(data_set, side, n) for n in range(size // 3)]
            )
    for domain in ("banking", "hotels"):
        for fold in range(20):
            said = [{"text": f"{domain} {fold} says {n}", "intents": [f"intent_{n}"]} for n in range(3)]
            files[f"nlupp/data/{domain}/fold{fold}.json"] = dumped([*said, {"text": "uh"}])
    return files


def spans(data_set: str, side: str, number: int) -> dict[str, Any]:
    text = f"{number} seats for {data_set} {side}"
    first = {"slot": "people", "valueSpan": {"endIndex": len(str(number))}}  # a start of 0 is not written
    whole = {"slot": "party_name", "valueSpan": {"startIndex": text.index("for") + 4, "endIndex": len(text)}}
    return {"userInput": {"text": text}, "labels": [first, whole]} if number else {"userInput": {"text": text}}


def dialogues() -> Files:
    files: dict[str, str | bytes] = {"LICENSE.txt": "CC BY-SA 4.0, made up", "train/schema.json": "[]"}
    acts = ("INFORM", "AFFIRM", "REQUEST", "THANK_YOU", "NEGATE")
    for number, name in enumerate(assistant.DIALOGUES):
        turns = [
            turn("USER", f"I want {number} tickets", [act("INFORM_INTENT", "intent", "Buy")]),
            turn(
                "SYSTEM",
                f"There are {number} tickets at {number} dollars, shall I buy them?",
                [
                    act("OFFER", "ticket_count", str(number), "all"),
                    act("NOTIFY_FAILURE", ""),
                    act("REQUEST", "show_time"),
                ],
            ),
            turn("USER", f"That is my answer {number}", [act(acts[number % len(acts)], "", "")]),
            turn("USER", "Two acts", [act("AFFIRM", ""), act("REQUEST", "price")]),
        ]
        files[name] = dumped([{"dialogue_id": f"1_{number:05}", "services": ["Events_1"], "turns": turns}])
    return files


def turn(speaker: str, said: str, actions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"speaker": speaker, "utterance": said, "frames": [{"service": "Events_1", "actions": actions}]}


def act(name: str, slot: str, *values: str) -> dict[str, Any]:
    return {"act": name, "slot": slot, "values": [value for value in values if value]}


def visits() -> Files:
    files: dict[str, str | bytes] = {"LICENSE.txt": "CC BY 4.0, made up"}
    heads = ("ID", "section_header", "section_text", "dialogue")
    sections = list(clinical.SECTIONS)[:3]
    for names in clinical.VISIT_FILES.values():
        for name in names:
            rows = [
                (str(n), sections[n % 3], f"Has had {n} colds.", f"Doctor: {name} {n}?\r\nPatient: Yes.")
                for n in range(30)
            ]
            long = ("99", sections[0], "word " * 81, f"Doctor: {name} {'word ' * 251}")
            files[f"Main-Dataset/{name}.csv"] = table(heads, [*rows, long])
    return files


def pairs() -> Files:
    lines = []
    for number in range(160):
        first, second = f"What helps against cough {number}?", f"Is cough {number} curable?"
        for value, other in (("true", second), ("false", f"How old is {number}?"), ("true", first.upper())):
            lines.append(f'<pair pid="{len(lines)}" value="{value}"><chq>\n {first}\n</chq><faq>{other}</faq></pair>')
    return {
        "Readme.txt": "CC BY 4.0, made up",
        clinical.PAIRS: f'<?xml version="1.0" encoding="UTF-8"?>\n<RQE-med-train>{"".join(lines)}</RQE-med-train>',
    }


def conclusions() -> Files:
    answers = ("yes", "no", "maybe")
    asked = {
        str(n): {
            "QUESTION": f"Does drug {n} work?",
            "LONG_ANSWER": f"It did {n} times.",
            "final_decision": answers[n % 3],
        }
        for n in range(90)
    }
    tested = {name: value["final_decision"] for name, value in list(asked.items())[::4]}
    return {
        "LICENSE": "MIT, made up",
        "data/ori_pqal.json": dumped(asked),
        "data/test_ground_truth.json": dumped(tested),
    }


def tagged(kinds: tuple[str, ...], line: str, size: int, side: str) -> str:
    """Sentences in which each kind is mentioned twice, once in capitals; the first is too short to be one."""
    sentences = [line.format("Heading", f"B-{kinds[0]}")]
    for number in range(size):
        words = [("In", "O"), (f"{side}{number}", "O"), (",", "O")]
        for kind in kinds:
            mention = [(f"{kind}{number}", f"B-{kind}"), ("-", f"I-{kind}"), ("like", f"I-{kind}")]
            words += [*mention, ("(", "O"), *((word.upper(), tag) for word, tag in mention), (")", "O")]
        sentences.append("".join(line.format(*word) for word in [*words, (".", "O")]))
    return "\n".join(sentences)


def entities() -> Files:
    kinds = ("Chemical", "Disease")
    return {
        "LICENSE.md": "CC BY 4.0, made up",
        **{f"data/BC5CDR-IOB/{side}.tsv": tagged(kinds, "{}\t{}\n", size, side) for side, size in SIZES.items()},
    }


def summaries() -> Files:
    rows = [
        ("File", "CHQ", "Summary"),
        *((f"{n}.txt", f"SUBJECT: pill {n}\nDear all", f"What is pill {n}?") for n in range(160)),
    ]
    texts = [text for row in rows for text in row]
    name = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    strings = "".join(f"<si><r><t>{escape(text[:3])}</t></r><r><t>{escape(text[3:])}</t></r></si>" for text in texts)
    cells = "".join(
        f'<row r="{r}">'
        + "".join(f'<c r="{column}{r}" t="s"><v>{3 * (r - 1) + c}</v></c>' for c, column in enumerate("ABC"))
        + f'<c r="D{r}"/></row>'
        for r in range(1, len(rows) + 1)
    )
    file = BytesIO()
    with ZipFile(file, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {name}>{strings}</sst>")
        book.writestr("xl/worksheets/sheet1.xml", f"<worksheet {name}><sheetData>{cells}</sheetData></worksheet>")
    return {"README.md": "CC BY 4.0, made up", clinical.SHEET: file.getvalue()}


def scibert() -> Files:
    files: dict[str, str | bytes] = {"LICENSE.txt": "Apache, made up"}
    purposes, kinds = ("background", "method", "result"), ("USED-FOR", "PART-OF")
    for side, size in SIZES.items():
        texts = "data/text_classification"
        files[f"{texts}/sci-cite/{side}.txt"] = lines(
            [{"text": f"{side} cites [{n}] .", "label": purposes[n % 3]} for n in range(size)]
        )
        files[f"{texts}/sciie-relation-extraction/{side}.txt"] = lines(
            [{"text": f"[[ {side} {n} ]] has << parts >> .", "label": kinds[n % 2]} for n in range(size)]
        )
        documents = tagged(("Method", "Task", "Metric", "Material", "Generic"), "{} NN O {}\n", size, side)
        files[f"data/ner/sciie/{side}.txt"] = f"-DOCSTART- NN O O\n\n{documents}"
    return files


def scitail() -> Files:
    files: dict[str, str | bytes] = {"LICENSE": "Apache, made up"}
    for part in ("dev", "test"):
        files[f"scitail/data/{part}/answers.jsonl"] = lines(
            [
                {
                    "id": f"{part}_{n}",
                    "sentence1": f"{part} rock {n}",
                    "sentence2": f"Rocks {n // 2}",
                    "gold_label": "EN"[n % 2],
                }
                for n in range(160)
            ]
        )
    return files


def scitldr() -> Files:
    files: dict[str, str | bytes] = {"LICENSE": "Apache, made up"}
    for side, size in SIZES.items():
        rows = [
            {"source": [f"We {side}.", f"It is {n}."], "target": [f"{n} is.", "x"], "paper_id": str(n)}
            for n in range(size)
        ]
        files[f"SciTLDR-Data/SciTLDR-A/{side}.jsonl"] = lines(rows)
    return files


def dumped(value: Any) -> str:
    return json.dumps(value, indent=1)


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    file = StringIO()
    csv.writer(file).writerows([heads, *rows])
    return file.getvalue()


MODULES = (assistant, clinical, scholarly)
LAYOUTS: dict[str, Callable[[], Files]] = {
    assistant.POLYAI: polyai,
    assistant.SGD: dialogues,
    clinical.VISITS: visits,
    clinical.QUESTIONS: pairs,
    clinical.PUBMED: conclusions,
    clinical.ENTITIES: entities,
    clinical.SUMMARIES: summaries,
    scholarly.SCIBERT: scibert,
    scholarly.ARISTO: scitail,
    scholarly.SCITLDR: scitldr,
}
