"""What a file is in place of rows: a web page, an archive, another format. Told from its first bytes."""

import re

_BINARY = (
    (b"\x1f\x8b", "is packed with gzip; let its name end in .gz"),
    (b"BZh", "is packed with bzip2; let its name end in .bz2"),
    (b"\xfd7zXZ\0", "is packed with xz; let its name end in .xz"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd; let its name end in .zst"),
    (b"\x04\x22\x4d\x18", "is packed with lz4; let its name end in .lz4"),
    (b"PK\x03\x04", "is an archive or a spreadsheet; let its name end in .zip, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "is a spreadsheet or another office file; save it as CSV"),
    (b"%PDF", "is a PDF; write its rows as CSV or JSONL"),
    (b"SQLite format 3\0", "is a SQLite database; read it with source > sql and query"),
    (b"ARROW1", "is an Arrow file; write it as Parquet"),
    (b"version https://git-lfs", "is a pointer of Git LFS and not the file itself; run git lfs pull"),
)
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|script|\?xml|!--)", re.I)
_JSON = re.compile(rb"\s*(?:\{\s*[\"\r\n}]|\[\s*[\{\[\r\n])")
_MARK = b"\xef\xbb\xbf"


def mistaken(head: bytes, kind: str) -> str | None:
    """What a file that is to be read as `kind` is instead, and what to do; None where nothing speaks against it."""
    for magic, what in _BINARY:
        if head.startswith(magic):
            return what
    if kind != "parquet" and head.startswith(b"PAR1"):
        return "is a Parquet file; set source > format: parquet, or its ending"
    text = head.removeprefix(_MARK)
    if _PAGE.match(text):
        return "is a web page (HTML or XML) and no rows: perhaps a sign-in page or an error; fetch it again"
    if kind in ("csv", "tsv") and _JSON.match(text):
        return "holds JSON; set source > format: jsonl, or its ending"
    first = text.lstrip().partition(b"\n")[0].strip()
    if kind == "jsonl" and first and not first.startswith((b"{", b"[", b'"')):
        for other, mark in (("tsv", b"\t"), ("csv", b","), ("csv", b";")):
            if mark in first and b":" not in first:
                return f"begins as a {other} file does and not with a JSON object; set source > format, or its ending"
    return None
