"""The command line as a person types it: run in this process, and which options it has."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.app import app, main

Alter = Callable[..., tuple[int, str, str]]


def caller_at(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alter:
    """As `caller`, in `folder`, of the workspace `home` and its own store."""
    monkeypatch.setenv("ALTER_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    return caller(monkeypatch, capsys)


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alter:
    """A function of the words after `alter`; gives exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["alter", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def options_of(word: str) -> set[str] | None:
    """What `alter WORD` takes, or `alter` itself where the word is an option; None where there is no such command."""
    root: Any = typer.main.get_command(app)
    command = root if word.startswith("-") else root.commands.get(word)
    if command is None:
        return None
    return {"--help", *(option for one in command.params for option in (*one.opts, *one.secondary_opts))}


def in_terminal(alter: Alter, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """As `alter`, its stderr a terminal of 120 columns."""
    ours, theirs = os.openpty()
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        shown = pool.submit(read_terminal, ours)
        with open(theirs, "w") as terminal:
            for name, value in (("TERM", "xterm"), ("COLUMNS", "120")):
                patch.setenv(name, value)
            patch.setattr(sys, "stderr", terminal)
            code, out, _ = alter(*arguments)
        return code, out, shown.result().decode()


def read_terminal(descriptor: int) -> bytes:
    """What a process writes to the other end of a terminal until it closes that; closes this one."""
    shown = b""
    try:
        while part := os.read(descriptor, 65536):
            shown += part
    except OSError:
        pass  # Linux's way to say that the other end of a terminal was closed
    finally:
        os.close(descriptor)
    return shown
