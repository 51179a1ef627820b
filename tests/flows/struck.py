"""`alter`, killed by itself at a named moment of registering: python -m tests.flows.struck MOMENT tree|alone WORDS...

A moment is right after a call of MLflow's client, or right before the outcome is shown. It is struck from outside of
the product: MLflow's client class and typer are wrapped in this process, and nothing else is.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import psutil

Call = tuple[str, str, int]
"""Method of MlflowClient, a word among its arguments (empty: whatever they are), and which such call it is."""
LAST_LINE = "before the last line"
MOMENTS: dict[str, Call | None] = {
    "the files are stored": ("finalize_logged_model", "READY", 1),
    "the version is made": ("create_model_version", "", 1),
    "it is linked with its run": ("log_outputs", "", 1),
    "its card is written": ("update_model_version", "", 1),
    "its decision is written": ("set_model_version_tag", "decision_reason", 1),
    "the alias is moved": ("set_registered_model_alias", "", 1),
    "the card tells the decision": ("update_model_version", "", 2),
    "it is settled": ("set_model_version_tag", "settled", 1),
    "the MLflow run is closed": ("set_terminated", "FINISHED", 1),
    LAST_LINE: None,
}


def strike(tree: bool) -> NoReturn:
    """SIGKILL to this process, and first to all that it started where `tree` is set."""
    for child in psutil.Process().children(recursive=True) if tree else ():
        try:
            child.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _wrap(owner: Any, name: str, word: str, which: int, then: Callable[[], NoReturn]) -> None:
    """Let the so-manieth call of a method that has `word` among its arguments be its last."""
    before, seen = getattr(owner, name), 0

    def wrapped(*arguments: Any, **more: Any) -> Any:
        nonlocal seen
        result = before(*arguments, **more)
        if not word or word in (*arguments, *more.values()):
            seen += 1
            if seen == which:
                then()
        return result

    setattr(owner, name, wrapped)


def main() -> None:
    moment, how, *words = sys.argv[1:]
    call = MOMENTS[moment]

    def then() -> NoReturn:
        strike(how == "tree")

    if call is None:
        import typer

        typer.echo = lambda *_, **__: then()
    else:
        from mlflow.tracking import MlflowClient

        _wrap(MlflowClient, *call, then)
    sys.argv = ["alter", *words]
    from flows.cli.app import main as alter

    alter()


if __name__ == "__main__":
    main()
