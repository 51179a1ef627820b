"""The documentation's pages as programs: what its fenced blocks mean.

bash: commands, run in page order. bash server=URL: a command that serves; the page goes on when URL answers.
python: a program. Any language with file=PATH: a file, written and not run. text, json, others: shown, not run.
A block after `<!-- skip: next "REASON" -->` is not run; REASONS holds the ones that count.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from unittest import SkipTest

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, RawFencedCodeBlockLexer

from tests.docs.sandbox import ROOT, Sandbox

PAGES = sorted(
    str(file.relative_to(ROOT))
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *ROOT.glob("docs/**/*.md")]
)
SHOWN = ("text", "json", "yaml", "toml", "csv", "jsonl", "mermaid", "math", "diff")
REASONS = (
    "needs Docker",
    "needs a cluster",
    "needs a GPU",
    "needs the network",
    "needs an environment of its own",
    "needs hours of training",
    "would run this test",
)


class Blocks:
    """Parser of fenced blocks with their whole info line."""

    _lexer = RawFencedCodeBlockLexer(re.compile(r"(?P<info>[^\n]*)\n"))

    def __call__(self, document: Document) -> Iterable[Region]:
        for region in self._lexer(document):
            language, *settings = region.lexemes["info"].split() or [""]
            named = dict(setting.split("=", 1) for setting in settings)
            if language in SHOWN and not named:
                continue
            region.parsed = (language, named, str(region.lexemes["source"]))
            region.evaluator = _run
            yield region


class Hidden:
    """Parser of commands that the page does not show: `<!-- invisible-code-block: bash`."""

    _lexer = DirectiveInHTMLCommentLexer("invisible-code-block", "bash")

    def __call__(self, document: Document) -> Iterable[Region]:
        for region in self._lexer(document):
            region.parsed = str(region.lexemes["source"])
            region.evaluator = _hidden
            yield region


def _run(example: Example) -> None:
    language, named, text = example.parsed
    sandbox: Sandbox = example.namespace["sandbox"]
    if "file" in named:
        sandbox.write(named["file"], text)
    elif language == "bash" and "server" in named:
        sandbox.serve(text, named["server"])
    elif language == "bash":
        sandbox.shell(text)
    elif language == "python":
        sandbox.python(text)
    else:
        raise AssertionError(f"a block of {language or 'no language'}: name bash, python or one of {', '.join(SHOWN)}")


def _hidden(example: Example) -> None:
    example.namespace["sandbox"].shell(example.parsed)


_READER = Sybil(parsers=[Blocks(), Hidden(), SkipParser()], patterns=["*.md"])


def run_page(page: Path, sandbox: Sandbox) -> tuple[int, list[str]]:
    """Blocks that ran, and why others did not. Raises AssertionError at the first that fails, with page and line."""
    document = _READER.parse(page)
    document.namespace["sandbox"] = sandbox
    ran, left = 0, []
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            left.append(str(reason))
        except Exception as error:
            raise AssertionError(f"{page}:{example.line}:\n{error}") from error
        else:
            ran += isinstance(example.parsed, tuple) and example.region.evaluator is _run
    if strange := set(left) - set(REASONS):
        raise AssertionError(f"{page}: no reason to leave a block out: {', '.join(sorted(strange))}")
    return ran, left
