"""`asyncrl validate`: is a manifest right, and what does it resolve to."""

from __future__ import annotations

import json
from pathlib import Path

import click

from asyncrl.bounds import derived_bounds
from asyncrl.cli.arguments import manifest_argument, set_option, usage_errors
from asyncrl_api.manifest import dump_manifest, load_manifest


@click.command("validate")
@manifest_argument()
@set_option()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json"]),
    help="Print the resolved manifest, every default included.",
)
def command(file: str, overrides: tuple[str, ...], output: str | None) -> None:
    """Check the manifest FILE and show what follows from it; starts nothing.

    With -o yaml the derived numbers are comments above the manifest.
    """
    with usage_errors():
        job = load_manifest(Path(file), overrides)
    bounds = derived_bounds(job)
    width = max(len(label) for label, _ in bounds)
    if output == "json":
        click.echo(json.dumps(job.document(), indent=2))
        return
    if output == "yaml":
        for label, value in bounds:
            click.echo(f"# {label:<{width}}  {value}")
        click.echo(dump_manifest(job), nl=False)
        return
    click.echo(f"{file}: valid, job {job.name}")
    for label, value in bounds:
        click.echo(f"  {label:<{width}}  {value}")
