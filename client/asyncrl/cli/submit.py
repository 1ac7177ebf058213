"""`asyncrl submit`: a job to a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from asyncrl.cli.arguments import (
    cluster_options,
    cluster_words,
    connect,
    manifest_argument,
    set_option,
    usage_errors,
)
from asyncrl_api.manifest import load_manifest


@click.command("submit")
@manifest_argument()
@set_option()
@cluster_options()
@click.option("--watch", "follow", is_flag=True, help="Watch the job until its run has ended.")
def command(
    file: str,
    overrides: tuple[str, ...],
    context: str | None,
    namespace: str | None,
    follow: bool,
) -> None:
    """Create the job of the manifest FILE on the cluster, or bring the job of its name up to it.

    The namespace is that of --namespace, else of the manifest, else of the context.
    """
    with usage_errors():
        job = load_manifest(Path(file), overrides)
        client = connect(context, namespace)
        submitted, change = client.apply(job)
    where = f"{client.cluster.context}/{submitted.namespace}"
    click.echo(f"{submitted.name}: {change} in {where}")
    words = cluster_words(submitted.namespace, context)
    if change == "unchanged" and submitted.status.phase in ("Complete", "Failed"):
        click.echo(
            f"  it is {submitted.status.phase} already; to train anew: "
            f"asyncrl delete {submitted.name} {words}"
        )
    if follow:
        from asyncrl.cli.watch import watch

        sys.exit(watch(client, submitted.name, words))
    click.echo(f"  next: asyncrl watch {submitted.name} {words}")
