"""`asyncrl status`: the state of a run, once."""

from __future__ import annotations

import click
import yaml
from pydantic import ValidationError
from rich.console import Console

from asyncrl.cli.arguments import UsageFailure, run_argument, usage_errors
from asyncrl.live import Picture
from asyncrl.run_folder import RunFolder, find_run_folder
from asyncrl.summary import shown
from asyncrl_api.manifest import load_manifest
from asyncrl_api.status import JobStatus

OVER = ("Complete", "Failed", "Suspended")


@click.command("status")
@run_argument()
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Print the document.")
def command(run: str | None, output: str | None) -> None:
    """Show the state of RUN: a run folder, a name under runs/, or the newest by default."""
    with usage_errors():
        folder = find_run_folder(run)
        job = load_manifest(folder.manifest)
    status, text = _read(folder)
    if output == "json":
        click.echo(text, nl=False)
        return
    if output == "yaml":
        click.echo(yaml.safe_dump(yaml.safe_load(text), sort_keys=False), nl=False)
        return
    picture = Picture(job.name)
    picture.footer(shown(folder.path))
    picture.status(status)
    Console().print(picture)
    if status.message:
        click.echo(f"{status.reason}: {status.message}")
    if status.phase not in OVER and not folder.in_use():
        where = shown(folder.path)
        click.echo(
            "its supervisor is gone; continue with "
            f"`asyncrl run {shown(folder.manifest)} --output {where} --resume`"
        )


def _read(folder: RunFolder) -> tuple[JobStatus, str]:
    try:
        text = folder.status.read_text(encoding="utf-8")
        return JobStatus.model_validate_json(text), text
    except (OSError, ValidationError) as error:
        raise UsageFailure(f"{folder.status}: no readable status ({error})") from error
