"""`asyncrl suspend`: a checkpoint, and no pods."""

from __future__ import annotations

import click

from asyncrl.cli.arguments import (
    cluster_options,
    cluster_words,
    connect,
    job_argument,
    usage_errors,
)


@click.command("suspend")
@job_argument()
@cluster_options()
def command(name: str, context: str | None, namespace: str | None) -> None:
    """Stop the job NAME on the cluster after a checkpoint; `asyncrl resume` goes on from it."""
    with usage_errors():
        client = connect(context, namespace)
        client.suspend(name)
    click.echo(f"{name}: asked to checkpoint and stop")
    click.echo(f"  next: asyncrl resume {name} {cluster_words(client.namespace, context)}")
