"""`asyncrl logs`: what the processes of a run wrote."""

from __future__ import annotations

import click

from asyncrl.backends.run_logs import RunLogs
from asyncrl.cli.arguments import (
    UsageFailure,
    cluster_options,
    connect,
    run_argument,
    usage_errors,
)
from asyncrl.run_folder import find_run_folder

WIDTH = len("parameter-server-0")


@click.command("logs")
@run_argument()
@click.option(
    "--role", type=click.Choice(["learner", "actor", "parameter-server"]), help="Only this role."
)
@click.option("--index", type=click.IntRange(min=0), help="Only this actor, or learner rank.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until the run ends.")
@click.option(
    "--lines",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only the last N lines of each process.  [default: all]",
)
@cluster_options(selects=True)
def command(
    run: str | None,
    role: str | None,
    index: int | None,
    follow: bool,
    lines: int | None,
    context: str | None,
    namespace: str | None,
) -> None:
    """Print the logs of RUN: a run folder, a name under runs/, or the newest by default.

    With --namespace or --context: of the job of this name on the cluster. Lines carry the name of
    their process, unless --role and --index leave only one.
    """
    with usage_errors():
        if context is None and namespace is None:
            text = RunLogs(find_run_folder(run)).read(role, index, lines, follow=follow)
        elif run is None:
            raise UsageFailure("RUN: is missing; on a cluster, give the name of the job")
        else:
            text = connect(context, namespace).logs(
                run, role=role, index=index, lines=lines, follow=follow
            )
        alone = role is not None and index is not None
        for line in text:
            click.echo(line.text if alone else f"{line.process:<{WIDTH}} | {line.text}")
