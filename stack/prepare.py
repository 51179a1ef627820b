"""What the servers need before anybody uses them, once they answer: MLflow's accounts and Prefect's work pool."""

import os

from alter_core.errors import AlterError
from stack.place import POOL

ACCOUNTS = {"factory": "MLFLOW_FACTORY_PASSWORD", "reader": "MLFLOW_READER_PASSWORD"}
ADMIN = "MLFLOW_ADMIN_PASSWORD"


def prepare() -> list[str]:
    """Make the accounts `factory`, which produces, and `reader`, which only looks, and the work pool; what was done.

    Servers and passwords come from the environment, under the names of .env.example. Called again, it sets the
    passwords anew and changes nothing else. Raises AlterError and RegistryError.
    """
    from flows import make_prefect_home
    from flows.deployments.deploy import ensure_pool, server_client
    from registry.accounts import ensure_account

    names = ("MLFLOW_TRACKING_URI", ADMIN, *ACCOUNTS.values())
    if missing := [name for name in names if not os.environ.get(name)]:
        raise AlterError(f"{', '.join(missing)} must be set in the environment; .env.example explains them")
    make_prefect_home()
    done = []
    for account, variable in ACCOUNTS.items():
        made = ensure_account(
            os.environ["MLFLOW_TRACKING_URI"], ("admin", os.environ[ADMIN]), account, os.environ[variable]
        )
        done.append(f"MLflow account {account}: {'created' if made else 'unchanged'}")
    with server_client() as client:
        change, _ = ensure_pool(client, POOL)
    return [*done, f"{change.name}: {change.what}"]
