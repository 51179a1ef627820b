"""The rows of the domain assistant, from public files: messages to a bank, requests to book, dialogues."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from domains.checkouts import Checkout, Repository
from domains.task_rows import SEED, Row, Task, sides, split_by_group

POLYAI = "PolyAI-LDN/task-specific-datasets"
SGD = "google-research-datasets/dstc8-schema-guided-dialogue"
# The dialogue files of 4 MiB and more have no part: these rows are the ones that the domain's figures were measured on.
LARGE_DIALOGUES = {37, *range(52, 57), 58, 60, 66, 68, *range(70, 86), 93, 94, 104, 117, 118}
DIALOGUES = tuple(f"train/dialogues_{number:03}.json" for number in range(1, 128) if number not in LARGE_DIALOGUES)
BOOKINGS = ("Buses_1", "Events_1", "Homes_1", "RentalCars_1")

REPOSITORIES = (
    Repository(
        POLYAI,
        commit="57ec275d8078af65b7731c2a98be812d844a6d6b",
        licence="LICENSE",
        licence_digest="7e7170e3cebf88a9f60c7b8421418323c09304da1af4d5e90f4da1dc1c8a2661",
        reads=(
            "banking_data/train.csv",
            "banking_data/test.csv",
            "nlupp/data/ontology.json",
            *(f"nlupp/data/{domain}/fold{fold}.json" for domain in ("banking", "hotels") for fold in range(20)),
            "span_extraction/restaurant8k/train_0.json",
            "span_extraction/restaurant8k/test.json",
            *(f"span_extraction/dstc8/{name}/{file}.json" for name in BOOKINGS for file in ("train_0", "test")),
        ),
    ),
    Repository(
        SGD,
        commit="e852981ae34990f4358979625854259302feaa78",
        licence="LICENSE.txt",
        licence_digest="71a43a169b52bb1b39510b65ec5b43b4bbb59196d449a835fe58b50af6a72742",
        reads=DIALOGUES,
    ),
)


def tasks(checkouts: Mapping[str, Checkout]) -> Iterator[Task]:
    polyai, sgd = checkouts[POLYAI], checkouts[SGD]
    banking = sides(lambda side: _banking(polyai.file(f"banking_data/{side}.csv")))
    yield Task("banking_intent", *banking, most_train=3000, most_test=500)
    yield Task("intent_match", *_intents(polyai.file("nlupp/data")), most_train=3000, most_test=500)
    spans = sides(lambda side: _slots(polyai.file("span_extraction"), side), train="train_0")
    yield Task("slot_value", *spans, most_train=2500, most_test=500)
    train, test = split_by_group(list(_acts(sgd)), test_share=0.1)
    yield Task("act_to_text", train, test, most_train=2500, most_test=400)
    train, test = split_by_group(list(_replies(sgd)), test_share=0.1)
    yield Task("reply_act", train, test, most_train=2500, most_test=400, largest_label=0.2)


def _banking(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            yield Row(row["text"], row["category"].replace("_", " "))


def _intents(folder: Path) -> tuple[list[Row], list[Row]]:
    """For each utterance, whether it has one of its intents, and whether it has one that its domain knows and it lacks.

    Both are drawn. Folds 0 to 15 are for training.
    """
    known = _json(folder / "ontology.json")["intents"]
    random = Random(SEED)
    sides: list[list[Row]] = []
    for folds in (range(16), range(16, 20)):
        rows: list[Row] = []
        for domain in ("banking", "hotels"):
            possible = [name for name, intent in known.items() if {"general", domain} & set(intent["domain"])]
            for fold in folds:
                for said in _json(folder / domain / f"fold{fold}.json"):
                    if not (present := said.get("intents")):
                        continue
                    drawn = {"yes": random.choice(present)}
                    drawn["no"] = random.choice([name for name in possible if name not in present])
                    rows += (
                        Row(
                            f"utterance: {said['text']} question: {known[intent]['description']}",
                            answer,
                            {"intent": intent, "domain": domain},
                        )
                        for answer, intent in drawn.items()
                    )
        sides.append(rows)
    return sides[0], sides[1]


def _slots(folder: Path, side: str) -> Iterator[Row]:
    """A row for each slot that is marked in a message."""
    for data_set in ("restaurant8k", *(f"dstc8/{name}" for name in BOOKINGS)):
        for message in _json(folder / data_set / f"{side}.json"):
            text = message["userInput"]["text"]
            for label in message.get("labels", ()):
                slot, span = label["slot"], label["valueSpan"]
                yield Row(
                    f"question: what is the {slot.replace('_', ' ')}? context: {text}",
                    text[span.get("startIndex", 0) : span["endIndex"]],
                    {"domain": Path(data_set).name, "slot": slot},
                )


def _acts(sgd: Checkout) -> Iterator[Row]:
    """What the system says with two acts and more, in eight words and more, from its acts written out."""
    for dialogue in _dialogues(sgd):
        for turn in dialogue["turns"]:
            acts = _actions(turn)
            if turn["speaker"] == "SYSTEM" and len(acts) >= 2 and len(turn["utterance"].split()) >= 8:
                service = turn["frames"][0]["service"].split("_")[0]
                told = "; ".join(map(_told, acts))
                name = dialogue["dialogue_id"]
                yield Row(f"service: {service} acts: {told}", turn["utterance"], {"dialogue": name}, group=name)


def _told(act: Mapping[str, Any]) -> str:
    slot, values = act["slot"].replace("_", " "), " | ".join(act["values"])
    inside = f"{slot} = {values}" if slot and values else slot or values
    return f"{act['act'].lower()}({inside})" if inside else str(act["act"]).lower()


def _replies(sgd: Checkout) -> Iterator[Row]:
    """What a user answers with one kind of act, after what the system said."""
    for dialogue in _dialogues(sgd):
        before = ""
        for turn in dialogue["turns"]:
            kinds = {act["act"] for act in _actions(turn)}
            if turn["speaker"] == "SYSTEM":
                before = turn["utterance"]
            elif before and len(kinds) == 1:
                name = dialogue["dialogue_id"]
                yield Row(
                    f"system: {before} user: {turn['utterance']}",
                    kinds.pop().lower().replace("_", " "),
                    {"dialogue": name},
                    group=name,
                )


def _dialogues(sgd: Checkout) -> Iterator[dict[str, Any]]:
    for name in DIALOGUES:
        yield from _json(sgd.file(name))


def _actions(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [action for frame in turn["frames"] for action in frame["actions"]]


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
