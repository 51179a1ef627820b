"""News of a domain's versions: a Prefect event each, and a message to the notification block where one is named."""

from contextlib import suppress
from typing import Literal

from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.logging import get_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from flows.notify import send
from registry.versions import Version

Kind = Literal["champion", "candidate", "waiting", "refused", "blocked", "stale", "due"]
"""champion: what users load is another version. candidate: the rule kept a version back. waiting: it waits for a
person's word. refused: that word was no, or none came. blocked: quality checks stop a run. stale: a champion is older
than its spec allows, or its rows moved on. due: rows changed so far that a run is started."""
OF_DECISIONS: dict[str, Kind] = {"promote": "champion", "keep": "candidate", "review": "waiting"}
"""Tag `decision` of a version -> what is told once its production has ended."""


def tell(kind: Kind, domain: str, text: str, version: int | None = None, *, by_block: bool = True) -> None:
    """Emit the event `alter.KIND` of the resource `alter.domain.DOMAIN`. Whatever fails is logged and ends nothing.

    by_block: unset where a run that ends badly is told of anyway.
    """
    resource = {"prefect.resource.id": f"alter.domain.{domain}", "prefect.resource.name": domain}
    more = {} if version is None else {"version": version}
    try:
        if is_heard():
            emit_event(f"alter.{kind}", resource, payload={"domain": domain, "text": text, **more})
    except Exception as error:  # whatever a client of events may raise: nobody waits for news
        get_logger("flows.news").error("nobody was told by an event (alter.%s of %s): %s", kind, domain, error)
        return
    if by_block:
        of = "" if version is None else f" version {version}"
        send(f"{domain}{of}: {kind}", f"{domain}{of}: {kind}.\n{text}")


def is_heard() -> bool:
    """Whether a Prefect server is there for events; raises what it says where one is named and does not answer, for
    which Prefect's own client of events would wait half a minute at this process's end."""
    if flow_run.get_id():
        return True
    if not PREFECT_API_URL.value():
        return False  # Prefect would start a server of its own
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            raise error
    return True


def tell_decided(version: Version) -> None:
    """What was decided of a version at its production's end."""
    with suppress(KeyError):  # its production was cut off before
        kind = OF_DECISIONS[version["tags"]["decision"]]
        tell(kind, version["name"], version["tags"].get("decision_reason", ""), version["version"])


def tell_in_vain(version: Version) -> str:
    """That a version waited for a person's word until its limit; what to say here."""
    text = "it waited for approval in vain, and is put aside"
    tell("refused", version["name"], text, version["version"])
    return f"{version['name']} version {version['version']}: {text}"
