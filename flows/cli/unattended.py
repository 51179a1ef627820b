"""Commands for domains that run by themselves: deploy, serve, watch, status."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from alter_core.errors import AlterError, SpecError
from alter_core.whole import write_text
from alter_core.workspace import Workspace
from flows import make_prefect_home
from flows.cli.options import DataRoot, Domains, Json
from flows.production.exit_codes import WRONG

app = typer.Typer()


def all_or(domains: list[str] | None) -> list[str]:
    """The domains given, else all that are found. Raises SpecError when there are none."""
    from flows.production.plan import all_domains

    found = domains or all_domains()
    if not found:
        raise SpecError("no domain is found under domains/; give a folder with a domain.yaml, or its path")
    return found


@app.command()
def deploy(
    domains: Domains = None,
    work_pool: Annotated[str, typer.Option(help="Where flow runs start; `alter` is made when missing.")] = "alter",
    data_root: DataRoot = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove deployments whose spec is gone (only without DOMAIN).")
    ] = False,
    yaml_file: Annotated[
        Path | None, typer.Option("--yaml", dir_okay=False, help="Write a prefect.yaml instead; no server is needed.")
    ] = None,
) -> None:
    """Make one Prefect deployment per domain from its spec; called again, it changes only what the specs changed."""
    from flows.deployments.declarations import prefect_yaml
    from flows.deployments.deploy import deploy as apply

    if prune and (domains or yaml_file):
        raise AlterError("--prune looks at all deployments of the server: give neither DOMAIN nor --yaml with it")
    if yaml_file is not None:
        write_text(yaml_file, prefect_yaml(all_or(domains), work_pool, data_root))
        typer.echo(f"wrote {yaml_file}; `prefect deploy --all --prefect-file {yaml_file}` makes its deployments")
        return
    for change in apply(all_or(domains), work_pool, data_root=data_root, whole=not domains, prune=prune):
        typer.echo(f"{change.name}: {change.what}" + (f" ({change.detail})" if change.detail else ""))


@app.command()
def serve(
    domains: Domains = None,
    data_root: DataRoot = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    host: Annotated[str, typer.Option(help="Address of the server that is started.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=1, max=65535, envvar="PREFECT_SERVER_API_PORT", help="Port of the server that is started."),
    ] = 4200,
) -> None:
    """Run the domains on their schedules on this machine, until Ctrl-C or SIGTERM; starts a Prefect server if none is
    named by PREFECT_API_URL.
    """
    from flows.deployments.serve import own_server

    make_prefect_home()
    names = all_or(domains)
    given = os.environ.get("PREFECT_API_URL")
    with nullcontext(given) if given else own_server(Workspace.default(), host, port) as url:
        os.environ["PREFECT_API_URL"] = url
        from flows.deployments.serve import serve as serve_deployments

        typer.echo(f"serving {', '.join(names)}; Prefect's UI is {url.removesuffix('/api')}; Ctrl-C stops", err=True)
        serve_deployments(names, data_root, limit)


@app.command()
def watch(domains: Domains = None, data_root: DataRoot = None) -> None:
    """Look whether changed rows call for a run, where a spec has a trigger, and run the domains that are due; put aside
    what nobody decided on in time.
    """
    make_prefect_home()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    from flows import many
    from flows.approval import show
    from flows.deployments.watch import tell_news
    from flows.news import tell_in_vain
    from flows.production.stores import model_store
    from flows.production.watch import is_alone, put_aside, watch

    plans, ended = many.read_plans(all_or(domains), data_root)
    for plan in plans:
        due: list[str] = []
        try:
            if waited := put_aside(plan):
                typer.echo(tell_in_vain(waited))
                show(model_store(plan.workspace), plan.spec.name)
            verdict = watch(plan, not is_alone(plan), due.append)
        except AlterError as error:
            ended.append(many.Ended(plan.spec.name, None, str(error), error.exit_code))
            continue
        tell_news(plan.spec.name, verdict)
        typer.echo(f"{plan.spec.name}: {'a run is due' if due else 'nothing to do'}: {verdict.why}")
        if due:
            parameters: many.Parameters = {"why": verdict.why, "data_root": str(data_root) if data_root else None}
            ended += many.produce_each([plan], parameters, lambda _: None)
    if ended:
        many.print_ended(ended)
    raise typer.Exit(many.exit_code(ended))


@app.command()
def status(
    domains: Domains = None,
    costs: Annotated[bool, typer.Option("--costs", help="Hours and money by domain and month instead.")] = False,
    as_json: Json = False,
) -> None:
    """What ran last, what runs next and what is champion, per domain."""
    if costs:
        from flows.production.costs import costs_json, print_costs, read_costs

        spent = read_costs(all_or(domains))
        typer.echo(costs_json(spent)) if as_json else print_costs(spent)
        return
    make_prefect_home()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    from flows.deployments.status import print_status, status_json
    from flows.deployments.status import status as read_status
    from flows.production.plan import all_domains

    rows = read_status(domains or all_domains())
    typer.echo(status_json(rows)) if as_json else print_status(rows)
    if domains and any(row.unknown for row in rows):
        raise typer.Exit(WRONG)
