"""`asyncrl resume`: on from the checkpoint."""

from __future__ import annotations

import click

from asyncrl.cli.arguments import (
    cluster_options,
    cluster_words,
    connect,
    job_argument,
    usage_errors,
)


@click.command("resume")
@job_argument()
@cluster_options()
def command(name: str, context: str | None, namespace: str | None) -> None:
    """Let the suspended job NAME on the cluster go on from its checkpoint."""
    with usage_errors():
        client = connect(context, namespace)
        client.resume(name)
    click.echo(f"{name}: asked to go on")
    click.echo(f"  next: asyncrl watch {name} {cluster_words(client.namespace, context)}")
