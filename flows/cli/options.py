"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="A name under domains/, a folder, or a domain.yaml.")]
Domains = Annotated[
    list[str] | None,
    typer.Argument(metavar="DOMAIN", help="Names, folders or domain.yaml files; unset: all under domains/."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="ALTER_DATA_ROOT", help="Folder that relative source paths may also lie under."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress, only the result.")]
