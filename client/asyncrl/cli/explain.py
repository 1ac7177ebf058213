"""`asyncrl explain`: what a field of the manifest means."""

from __future__ import annotations

import click

from asyncrl.cli.arguments import usage_errors
from asyncrl_api.fields import fields_of
from asyncrl_api.reference import explain
from asyncrl_api.spec import AsyncRLJob


def _complete_path(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The fields one level on: `spec.st` gives spec.staleness, spec.stability and spec.stopping."""
    above, dot, start = incomplete.rpartition(".")
    field = fields_of(AsyncRLJob).find(tuple(above.split(".")) if dot else ())
    if field is None:
        return []
    below = field.item if field.item is not None else field
    return [f"{above}{dot}{child.name}" for child in below.children if child.name.startswith(start)]


@click.command("explain")
@click.argument("path", default="spec", shell_complete=_complete_path, metavar="[PATH]")
def command(path: str) -> None:
    """Explain the field PATH of the manifest, as in spec.staleness.max, and name those below it.

    By default spec. Needs no cluster: it is what this version of the command knows.
    """
    with usage_errors():
        click.echo(explain(path))
