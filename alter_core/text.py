"""How a text is written on disk: one rule for every source, so that equal texts are equal bytes."""

import re
import string
import unicodedata
from hashlib import blake2b
from typing import Literal

UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Scripts without spaces between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese), for a class of a regular
expression: what counts words counts their characters, as a sentence would be one word."""

Layout = Literal["auto", "prose", "kept"]

_UNTIDY = re.compile(r"[^\S \n]|  | \n|\n |\n\n\n")
_BREAK = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_RETURN = re.compile(r"\r\n?")
_SPACES = re.compile(r"[^\S\n]+")
_EDGES = re.compile(r" ?\n ?")
_BLANKS = re.compile(r"\n{3,}")
_INDENTED = re.compile(r"[\n\r][^\S\n\r]+\S")
_BEGIN = re.compile(r"(?:[^\S\n]{2,}|\t)\S")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    r"""Unicode NFC; every line end is \n; other white space is one space; at most one blank line; nothing at the ends.

    Letters, case and punctuation stay as they are.
    """
    text = _composed(text)
    # Most texts are one printable line, and printable leaves only the plain space as white space: far faster to see.
    if ("  " in text or not text.isprintable()) and _UNTIDY.search(text):
        text = _BREAK.sub("\n", text)
        text = _SPACES.sub(" ", text)
        text = _EDGES.sub("\n", text)
        text = _BLANKS.sub("\n\n", text)
    return text.strip()


def tidied(text: str, layout: Layout) -> str:
    r"""An input or a free target as the model meets it; never with blanks at its ends.

    prose: as `clean` writes it. kept: Unicode NFC, \n for \r\n and \r; every other blank stays. auto: kept where a line
    is indented (code, YAML), and prose otherwise.
    """
    if layout == "kept" or (layout == "auto" and not text.isprintable() and _INDENTED.search(text.strip())):
        return _RETURN.sub("\n", _composed(text)).strip()
    return clean(text)


def tidying(text: str, written: str) -> str | None:
    """What `tidied` changed of `text` that may carry meaning: indentation, blanks or letters. None where it is line
    ends, and at the ends a blank or empty lines."""
    plain = _RETURN.sub("\n", text)
    if plain.strip() == written:
        return "indentation" if _BEGIN.match(plain.lstrip("\n")) else None
    if _composed(plain).strip() == written:
        return "letters"
    return "indentation" if _INDENTED.search(plain.strip()) else "blanks"


def _composed(text: str) -> str:
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        return unicodedata.normalize("NFC", text)
    return text


def look(text: str) -> str:
    """What a person sees of `text`: equal for texts that look alike, though they differ in case, in invisible
    characters, in compatibility forms (full-width letters), in the kind of blank, dash or quote, or by letters that
    other scripts write the same."""
    if text.isascii():
        return " ".join(text.casefold().split())
    text = unicodedata.normalize("NFKC", text).translate(_ALIKE)
    text = "".join(letter for letter in text if unicodedata.category(letter) not in _INVISIBLE)
    return " ".join(unicodedata.normalize("NFKC", text.casefold()).translate(_ALIKE).split())


_INVISIBLE = ("Cf", "Cc", "Cs", "Cn", "Co")
_WRITTEN_ALIKE = {
    # Cyrillic
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443\u04bb\u0501": "aceijopsxyhd",
    "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e": "ABCEHIJKMO",
    "\u0420\u0405\u0422\u0425\u0423\u04c0": "PSTXYI",
    # Greek
    "\u03b1\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03c7": "aikvopux",
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7": "ABEZHIKMNOPTYX",
    # Latin, dashes, quotes
    "\u0131\u0261\u0269": "igi",
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212": "-------",
    "\u2018\u2019\u201b\u02bc\u00b4": "'''''",
    "\u201c\u201d\u201f": '"""',
}
_ALIKE = {ord(one): two for ones, twos in _WRITTEN_ALIKE.items() for one, two in zip(ones, twos, strict=True)}


def normalise(text: str) -> str:
    """SQuAD's normalisation. A text that it would leave empty, such as a lone article, stays as it is."""
    bare = " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())
    return bare or text.strip().lower()


def damage(text: str) -> str | None:
    """What shows that `text` is not what somebody wrote, or None."""
    if "\0" in text:
        return "holds a NUL character; the text is damaged"
    if not text.isascii() and _SURROGATE.search(text):
        return "holds half of a character (a lone surrogate); the text is damaged"
    return None


def key_of(*texts: str) -> bytes:
    """16 bytes that tell texts apart, whatever process or machine asks."""
    return blake2b("\0".join(texts).encode(), digest_size=16).digest()


def share_of(key: bytes) -> float:
    """A number in [0, 1) that depends on `key` alone: rows below a share go to a split, and stay there."""
    return int.from_bytes(key[:8], "big") / 2**64
