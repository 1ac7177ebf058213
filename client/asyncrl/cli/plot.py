"""`asyncrl plot`: the report of a run."""

from __future__ import annotations

import click

from asyncrl.cli.arguments import run_argument, usage_errors
from asyncrl.report import write_report
from asyncrl.run_folder import find_run_folder


@click.command("plot")
@run_argument()
def command(run: str | None) -> None:
    """Write report.html of RUN anew and print its path; also while the run goes on.

    RUN is a run folder, a name under runs/, or the newest by default.
    """
    with usage_errors():
        folder = find_run_folder(run)
    try:
        path = write_report(folder.path)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{folder.path}: no report: {error}") from error
    click.echo(path)
