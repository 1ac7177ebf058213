"""`asyncrl scale`: another number of actors."""

from __future__ import annotations

import click

from asyncrl.cli.arguments import cluster_options, connect, job_argument, usage_errors


@click.command("scale")
@job_argument()
@click.argument("actors", type=click.IntRange(min=1), metavar="ACTORS")
@cluster_options()
def command(name: str, actors: int, context: str | None, namespace: str | None) -> None:
    """Give the job NAME on the cluster another number of ACTORS; its learner goes on meanwhile.

    As `kubectl scale asyncrljob NAME --replicas ACTORS`.
    """
    with usage_errors():
        connect(context, namespace).scale(name, actors)
    click.echo(f"{name}: {actors} actors asked for")
