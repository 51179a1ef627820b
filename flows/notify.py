"""Tell people through a notification block of Prefect's own: of a flow run that ends badly, and of news.

ALTER_NOTIFY_BLOCK names the block as TYPE/NAME, such as slack-webhook/platform: any block with `notify`.
"""

import os
from inspect import iscoroutine
from typing import Any, cast

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.logging import get_logger
from prefect.utilities.asyncutils import run_coro_as_sync

VARIABLE = "ALTER_NOTIFY_BLOCK"


def notify(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook of a flow (Prefect calls it with these names): sends the run's name, its state and the reason."""
    send(f"{flow_run.name}: {state.name}", message(flow_run, state))


def send(subject: str, text: str) -> None:
    """Send a message through the block.

    Does nothing while ALTER_NOTIFY_BLOCK is unset. What goes wrong here is logged and ends nothing else.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return
    log = get_logger("flows.notify")
    try:
        block = cast(NotificationBlock, Block.load(name))
        sending: Any = block.notify(text, subject=subject)
        if iscoroutine(sending):  # a hook that a runner calls stands in an event loop
            run_coro_as_sync(sending)
    except Exception as error:  # whatever a block may raise: the run's own end must not change
        log.error(
            "the notification block %r of %s was not told: %s; check its name and its settings", name, VARIABLE, error
        )


def message(flow_run: Any, state: Any) -> str:
    """What people read: what happened, why, and what to do next."""
    reason = (state.message or "no reason was given").strip()
    return (
        f"{flow_run.name}: {state.name}.\n{reason}\n"
        "The domain's next run goes on from the last checkpoint; `alter status` shows it, and `alter models` the "
        "champion, which no run changes but by its promotion."
    )
