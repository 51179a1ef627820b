"""`python -m stack up|down|status`: a team's stack on this machine, on loopback, without Docker."""

from dataclasses import asdict
from typing import Annotated

import typer

from alter_core.workspace import Workspace
from flows.production import ending
from stack.place import Place, Ports

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
DEFAULT = Ports()


@app.command()
def up(
    workers: Annotated[int, typer.Option(min=1, help="Prefect workers to start.")] = 1,
    prefect_port: Annotated[int, typer.Option(help="Prefect's API and UI.")] = DEFAULT.prefect,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's API and UI.")] = DEFAULT.mlflow,
    postgres_port: Annotated[int, typer.Option(help="PostgreSQL.")] = DEFAULT.postgres,
    redis_port: Annotated[int, typer.Option(help="Redis, where it is installed.")] = DEFAULT.redis,
) -> None:
    """Start PostgreSQL, Redis, MLflow with accounts, Prefect and workers, on loopback only."""
    from stack import steps  # with supervisor, which a worker's image lacks: `prepare` runs there

    ports = Ports(postgres=postgres_port, redis=redis_port, prefect=prefect_port, mlflow=mlflow_port)
    place = Place(Workspace.default().home, ports, workers)
    steps.up(place, typer.echo)
    typer.echo(f"Prefect  {place.prefect_url.removesuffix('/api')}  (user admin)")
    typer.echo(f"MLflow   {place.mlflow_url}  (users admin, factory, reader)")
    typer.echo(f"passwords are in {place.folder / 'passwords.env'}; to use the stack from a shell:")
    typer.echo(f"  set -a; . {place.client_file}; set +a; alter deploy; alter run --all --deployed")


@app.command()
def down() -> None:
    """Stop everything that `up` started; databases, models and passwords stay."""
    from stack import steps

    place = Place.open(Workspace.default().home)
    killed = steps.down(place)
    typer.echo("the stack is down" + (f"; {len(killed)} processes did not stop and were killed" if killed else ""))


@app.command()
def prepare() -> None:
    """Make MLflow's accounts and Prefect's work pool on servers that run, here or in containers."""
    from stack.prepare import prepare as prepare_servers

    for line in prepare_servers():
        typer.echo(line)


@app.command()
def status() -> None:
    """What runs of the stack."""
    from stack import manager

    place = Place.open(Workspace.default().home)
    found = manager.states(place) if manager.is_up(place) else {}
    for name, state in found.items():
        typer.echo(f"{name:<20} {state}")
    if not found:
        typer.echo("the stack is down; `make up-local` starts it")
    for name, port in asdict(place.ports).items():
        typer.echo(f"{name:<20} 127.0.0.1:{port}")


if __name__ == "__main__":
    ending.run(app)
