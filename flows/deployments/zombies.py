"""Flow runs whose process is gone without a word, such as after a machine's death: an automation that ends them.

A flow run of a deployment sends a heartbeat while it lives. The server's automation marks a run whose heartbeats stop
as Crashed, which frees its domain's place in the queue. (Prefect: "How to detect and respond to zombie flows".)
"""

from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

TAG = "alter"
"""On every flow run and deployment of the factory; the automation looks at no others."""
NAME = "alter: end runs that stopped responding"
HEARTBEAT_SECONDS = 30  # the shortest that Prefect sends
MISSED = 4  # so many heartbeats may be late before a run counts as gone


def zombie_automation(silent_seconds: float = HEARTBEAT_SECONDS * MISSED) -> AutomationCore:
    """The automation: a run of ours that sends neither heartbeat nor end for `silent_seconds` has crashed."""
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=NAME,
        description="Marks flow runs of the factory as Crashed when their heartbeats stop. Made by `alter deploy`.",
        enabled=True,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silent_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                force=False,
                message=f"no heartbeat for {silent_seconds:g} s: its process is gone. The domain's next run goes on "
                "from the last checkpoint",
            )
        ],
    )


def apply_automation(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    """Make the server's automation equal to `wanted`: created, changed or unchanged."""
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return "created"
    first, *more = known
    for other in more:  # two people deployed at the same time
        Automation(**other.model_dump()).delete()
    if _content(first) == _content(wanted):
        return "unchanged" if not more else "changed"
    client.update_automation(first.id, wanted)
    return "changed"


def _content(automation: AutomationCore) -> dict[str, Any]:
    """What counts in a comparison: the server adds ids to triggers."""
    content = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    trigger = content["trigger"]
    for key in ("after", "expect", "for_each"):
        trigger[key] = sorted(trigger[key])
    trigger.pop("id", None)
    for key in ("match", "match_related"):
        trigger[key] = _lists(trigger[key])
    return content


def _lists(match: Any) -> Any:
    """The server gives a list of one back as its item."""
    if isinstance(match, list):
        return [_lists(part) for part in match]
    return {key: [value] if isinstance(value, str) else value for key, value in match.items()}
