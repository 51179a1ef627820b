"""The rows of the domain clinical, from public files: visits, questions of patients, biomedical sentences."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

from domains.checkouts import Checkout, Repository
from domains.tagged_sentences import listed
from domains.task_rows import Row, Task, same, sides, split_by_group, tidy

VISITS = "abachaa/MTS-Dialog"
QUESTIONS = "abachaa/RQE_Data_AMIA2016"
PUBMED = "pubmedqa/pubmedqa"
ENTITIES = "cambridgeltl/MTL-Bioinformatics-2016"
SUMMARIES = "abachaa/MeQSum"
SHEET = "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx"
PAIRS = "RQE_Train_8588_AMIA2016.xml"
VISIT_FILES = {
    "train": ("MTS-Dialog-TrainingSet", "MTS-Dialog-ValidationSet"),
    "test": ("MTS-Dialog-TestSet-1-MEDIQA-Chat-2023", "MTS-Dialog-TestSet-2-MEDIQA-Sum-2023"),
}
MOST_NOTE_WORDS = 80

REPOSITORIES = (
    Repository(
        VISITS,
        commit="3ff0801933608d6f570468c13125125fb5cabdea",
        licence="LICENSE.txt",
        licence_digest="5b63c5abb5f4218f79230730b3733ce681383e2d656044069b8c73cbdb8e7fb7",
        reads=tuple(f"Main-Dataset/{name}.csv" for names in VISIT_FILES.values() for name in names),
    ),
    Repository(
        QUESTIONS,
        commit="9302fb9a55a437944ba6ce21a30023463a94a136",
        licence="Readme.txt",
        licence_digest="de0de2a22714593b4163f81d3e63cc1f31b1e8cc1d27a56dadfa2e5228529bdb",
        reads=(PAIRS,),
    ),
    Repository(
        PUBMED,
        commit="1cbae8e92f72f20c8d3747cbb3bf5bc53554d997",
        licence="LICENSE",
        licence_digest="8e75abc6136be91e5ae66dbb6dda07c8bc9dcc215ed3bc1ba3ae7fab7904777e",
        reads=("data/ori_pqal.json", "data/test_ground_truth.json"),
    ),
    Repository(
        ENTITIES,
        commit="df0df02fae6dbb87d88ffcf323b9096528f06f84",
        licence="LICENSE.md",
        licence_digest="fd3a263fe19ed8faa9068b43abaebafc02c77897b0c6fc09abc04bb592e5f16e",
        reads=("data/BC5CDR-IOB/train.tsv", "data/BC5CDR-IOB/test.tsv"),
    ),
    Repository(
        SUMMARIES,
        commit="51e36cf65c12602333b6fdc3ae8ecf10430529f7",
        licence="README.md",
        licence_digest="e9bb48a127beeca4cf80bd4c04880a718c022a6e39f892589f8aa8794bc2da36",
        reads=(SHEET,),
    ),
)

SECTIONS = {
    "FAM/SOCHX": "family and social history",
    "GENHX": "history of present illness",
    "PASTMEDICALHX": "past medical history",
    "CC": "chief complaint",
    "PASTSURGICAL": "past surgical history",
    "ROS": "review of systems",
    "ALLERGY": "allergy",
    "MEDICATIONS": "medications",
    "ASSESSMENT": "assessment",
    "EXAM": "exam",
    "DIAGNOSIS": "diagnosis",
    "DISPOSITION": "disposition",
    "PLAN": "plan",
    "EDCOURSE": "emergency department course",
    "IMMUNIZATIONS": "immunizations",
    "IMAGING": "imaging",
    "GYNHX": "gynecologic history",
    "PROCEDURES": "procedures",
    "OTHER_HISTORY": "other history",
    "LABS": "labs",
}


def tasks(checkouts: Mapping[str, Checkout]) -> Iterator[Task]:
    visits, entities = checkouts[VISITS], checkouts[ENTITIES]
    yield Task("visit_section", *sides(lambda side: _sections(visits, side)))
    yield Task("visit_note", *sides(lambda side: _notes(visits, side)))
    train, test = split_by_group(list(_pairs(checkouts[QUESTIONS].file(PAIRS))), test_share=0.12)
    yield Task("question_entailment", train, test, most_train=3000, most_test=400, largest_label=0.5)
    yield Task("pubmed_answer", *_conclusions(checkouts[PUBMED].file("data")))
    kinds = {"Chemical": "chemicals", "Disease": "diseases"}
    sentences = sides(lambda side: listed(entities.file(f"data/BC5CDR-IOB/{side}.tsv"), kinds))
    yield Task("entity_list", *sentences, most_train=2500, most_test=400)
    yield Task("question_summary", *split_by_group(list(_summaries(checkouts[SUMMARIES].file(SHEET))), test_share=0.2))


def _visits(visits: Checkout, side: str) -> Iterator[dict[str, str]]:
    for name in VISIT_FILES[side]:
        with visits.file(f"Main-Dataset/{name}.csv").open(encoding="utf-8", newline="") as opened:
            yield from csv.DictReader(opened)


def _sections(visits: Checkout, side: str) -> Iterator[Row]:
    for visit in _visits(visits, side):
        yield Row(visit["dialogue"], SECTIONS[visit["section_header"]], {"id": visit["ID"]})


def _notes(visits: Checkout, side: str) -> Iterator[Row]:
    for visit in _visits(visits, side):
        if len(visit["section_text"].split()) <= MOST_NOTE_WORDS:
            yield Row(visit["dialogue"], visit["section_text"], {"section": visit["section_header"].lower()})


def _pairs(file: Path) -> Iterator[Row]:
    """Pairs of two questions; one that is asked twice is no pair."""
    for pair in ElementTree.parse(file).getroot():
        first, second = (tidy(pair.findtext(name) or "") for name in ("chq", "faq"))
        if same(first) != same(second):
            target = "entailed" if pair.attrib["value"] == "true" else "not entailed"
            meta = {"pid": pair.attrib["pid"]}
            yield Row(f"question 1: {first} question 2: {second}", target, meta, group=first)


def _conclusions(folder: Path) -> tuple[list[Row], list[Row]]:
    questions = json.loads((folder / "ori_pqal.json").read_text(encoding="utf-8"))
    tested = json.loads((folder / "test_ground_truth.json").read_text(encoding="utf-8"))
    sides: tuple[list[Row], list[Row]] = ([], [])
    for name, asked in questions.items():
        text = f"question: {asked['QUESTION']} conclusion: {asked['LONG_ANSWER']}"
        sides[name in tested].append(Row(text, asked["final_decision"], {"pmid": name}))
    return sides


def _summaries(file: Path) -> Iterator[Row]:
    rows = _sheet(file)
    heads = {text: column for column, text in next(rows).items()}
    for row in rows:
        name, asked, summary = (row.get(heads[head], "") for head in ("File", "CHQ", "Summary"))
        yield Row(asked, summary, {"file": name}, group=same(summary))


def _sheet(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a workbook's first sheet, column letter -> text. xlsx is a zip of XML; this much of it is needed."""
    name = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with ZipFile(file) as book:
        with book.open("xl/sharedStrings.xml") as opened:
            texts = [
                "".join(text.text or "" for text in part.iter(f"{name}t"))
                for part in ElementTree.parse(opened).getroot()
            ]
        with book.open("xl/worksheets/sheet1.xml") as opened:
            for _, row in ElementTree.iterparse(opened):
                if row.tag == f"{name}row":
                    yield dict(_cells(row, name, texts))
                    row.clear()


def _cells(row: ElementTree.Element, name: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for cell in row:
        value = cell.findtext(f"{name}v")
        if value is not None:
            column = re.sub(r"\d", "", cell.attrib["r"])
            yield column, texts[int(value)] if cell.get("t") == "s" else value
