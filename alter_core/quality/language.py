"""A coarse guess at the language of a text, by its commonest words: enough to see that a source is in another one."""

import re
from collections.abc import Iterable

STOP_WORDS = {
    "en": "the of and to in is that it for was with as be this are on by not or from have you what i my can",
    "de": "der die und das ist nicht ein eine zu den mit von für auf im dem sich des ich es sie wie was kann",
    "fr": "le la les et des est une un dans que pour pas sur qui du au avec ce je il sont plus par comment",
    "es": "el la los las y es que en un una para con por no se del al lo su como más qué mi puedo",
    "it": "il la di e che un una per non con sono del della le dei nel alla come più è gli mi posso",
    "pt": "o a os as e de que um uma para com não por se do da no na em como mais meu posso é",
    "nl": "de het een en van is dat niet op te in voor met zijn aan er om ik wat kan hoe mijn ook",
}
_SETS = {name: frozenset(words.split()) for name, words in STOP_WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")


def language_of(text: str) -> str | None:
    """Code of the likeliest language, "other" for another script, None when the text is too short to tell."""
    letters = [c for c in text if c.isalpha()]
    if len(letters) >= 8 and sum(bool(_LATIN.match(c)) for c in letters) < len(letters) / 2:
        return "other"
    words = _WORD.findall(text.lower())
    counts = {name: sum(word in known for word in words) for name, known in _SETS.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] < 2:
        return None
    return best


def in_other_languages(texts: Iterable[str], wanted: str) -> tuple[int, list[int]]:
    """How many texts' language can be told, and the numbers of those not in `wanted`. A tie counts as wanted."""
    known = 0
    others = []
    for number, text in enumerate(texts):
        guess = language_of(text)
        if guess is None:
            continue
        known += 1
        words = _WORD.findall(text.lower())
        tie = guess != "other" and sum(w in _SETS[wanted] for w in words) >= sum(w in _SETS[guess] for w in words)
        if guess != wanted and not tie:
            others.append(number)
    return known, others
