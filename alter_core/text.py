"""How a text is written on disk: one rule for every source, so that equal texts are equal bytes."""

import re
import unicodedata
from hashlib import blake2b

UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Scripts without spaces between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese), for a class of a regular
expression: what counts words counts their characters, as a sentence would be one word."""

_UNTIDY = re.compile(r"[^\S \n]|  | \n|\n |\n\n\n")
_BREAK = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_SPACES = re.compile(r"[^\S\n]+")
_EDGES = re.compile(r" ?\n ?")
_BLANKS = re.compile(r"\n{3,}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    r"""Unicode NFC; every line end is \n; other white space is one space; at most one blank line; nothing at the ends.

    Letters, case and punctuation stay as they are.
    """
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    # Most texts are one printable line, and printable leaves only the plain space as white space: far faster to see.
    if ("  " in text or not text.isprintable()) and _UNTIDY.search(text):
        text = _BREAK.sub("\n", text)
        text = _SPACES.sub(" ", text)
        text = _EDGES.sub("\n", text)
        text = _BLANKS.sub("\n\n", text)
    return text.strip()


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
