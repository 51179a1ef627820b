"""Whether a run has nothing to do, told before Prefect is imported: its server takes longer to start than this."""

import time
from contextlib import suppress

from filelock import FileLock

from alter_core.backbone import converted_backbone
from alter_core.data.ingest import dataset_at_hand
from alter_core.errors import AlterError
from flows.production import display
from flows.production.earlier import said_unchanged, settled, stands
from flows.production.orphans import stop_orphaned_servers
from flows.production.outcome import Outcome
from flows.production.plan import Plan
from flows.production.production import Backbone, Production, Rows
from flows.production.review import is_overdue
from flows.production.stores import Stores


def unchanged(plan: Plan) -> Outcome | None:
    """The outcome of a run that has nothing to do; None where the flow has to find out.

    That is so where something has to be made, fetched or read, where the last run failed or was killed, and may have
    left something open, and where anything is wrong: the flow tries again, tells it, and is seen in Prefect.
    """
    begin = time.monotonic()
    if not plan.lock_file.exists() or plan.open_mark.exists():
        return None
    with suppress(AlterError, OSError), FileLock(plan.lock_file, timeout=0):
        folder = converted_backbone(plan.spec.backbone, plan.workspace, base=plan.folder)
        rows = dataset_at_hand(plan.spec, plan.folder, plan.workspace, plan.data_root)
        if folder is None or rows is None:
            return None
        stores = Stores(plan.workspace, plan.spec.name)
        production = Production(plan, stores, Backbone.read(folder), Rows.of(rows))
        made = settled(production)
        champion, asks = stores.models.champion(plan.spec.name), plan.spec.promotion.mode == "review"
        if made is None or is_overdue(made) or not stands(made, champion, asks):
            return None
        # The run that made it may have been killed once all was done, and left its server.
        said = [*stop_orphaned_servers(), said_unchanged(production, made)]
        if shown := display.current():
            shown.note("\n".join(said))
        seconds = time.monotonic() - begin
        return Outcome(
            plan.spec.name, "unchanged", made["version"], production.run_key, seconds, aliases=tuple(made["aliases"])
        )
    return None
