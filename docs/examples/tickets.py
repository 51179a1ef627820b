"""Three small CSV files to try the factory with: messages to a shop, made from templates.

python docs/examples/tickets.py FOLDER
"""

import csv
import random
import sys
from collections.abc import Iterator
from pathlib import Path

PRODUCTS = (
    "kettle",
    "desk lamp",
    "headphones",
    "backpack",
    "coffee grinder",
    "keyboard",
    "rain jacket",
    "bicycle pump",
)
TOPICS = {
    "delivery": (
        "my {product} has not arrived",
        "where is the parcel with my {product}",
        "the {product} went elsewhere",
    ),
    "billing": ("I was charged twice for the {product}", "the invoice for the {product} is wrong"),
    "return": ("I want to send the {product} back", "how do I return a {product} that I do not like"),
    "defect": (
        "the {product} broke after a day",
        "the {product} does not switch on",
        "a part of the {product} is loose",
    ),
}
URGENT = ("I need it today", "this cannot wait", "please answer at once", "I leave tomorrow morning")
CALM = ("no hurry", "whenever you find the time", "take your time", "thanks in advance")
OPENINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "To whom it may concern,")


def messages(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Text, its topic, whether it is urgent, and the number of the order."""
    chance = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        topic, product = chance.choice(list(TOPICS)), chance.choice(PRODUCTS)
        urgent = chance.random() < 0.4
        words = chance.choice(TOPICS[topic]).format(product=product)
        number = chance.randrange(1000, 9999)
        wish = chance.choice(URGENT if urgent else CALM).capitalize()
        text = f"{chance.choice(OPENINGS)} {words}, order {number}. {wish}."
        if text not in seen:
            seen.add(text)
            yield {"text": text, "topic": topic, "urgent": "yes" if urgent else "no", "order": str(number)}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed, task in enumerate(("topic", "urgent", "order")):
        with (folder / f"{task}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "answer" if task == "order" else "label"])
            writer.writerows((message["text"], message[task]) for message in messages(400, seed))


if __name__ == "__main__":
    main()
