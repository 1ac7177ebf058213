"""`asyncrl delete`: a job and all that belongs to it."""

from __future__ import annotations

import click

from asyncrl.cli.arguments import cluster_options, connect, job_argument, usage_errors


@click.command("delete")
@job_argument()
@cluster_options()
def command(name: str, context: str | None, namespace: str | None) -> None:
    """Delete the job NAME on the cluster and all that belongs to it, without a checkpoint."""
    with usage_errors():
        connect(context, namespace).delete(name)
    click.echo(f"{name}: deleted")
