"""`asyncrl watch`: a job on the cluster, until its run has ended."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console

from asyncrl.cli.arguments import (
    cluster_options,
    cluster_words,
    connect,
    job_argument,
    usage_errors,
)
from asyncrl.live import LiveView
from asyncrl.plain import PlainView
from asyncrl.summary import summary
from asyncrl.transitions import Transitions

if TYPE_CHECKING:
    from asyncrl.backends.kubernetes import Job, KubernetesClient

IGNORED_SECONDS = 20.0


@click.command("watch")
@job_argument()
@cluster_options()
@click.option("--no-live", is_flag=True, help="Plain lines, also in a terminal.")
def command(name: str, context: str | None, namespace: str | None, no_live: bool) -> None:
    """Show the job NAME on the cluster until its run has ended, or is suspended.

    Ctrl-C ends the watching; the job goes on. Exit codes as those of run.
    """
    with usage_errors():
        client = connect(context, namespace)
    sys.exit(watch(client, name, cluster_words(client.namespace, context), live=not no_live))


def watch(client: KubernetesClient, name: str, words: str, *, live: bool = True) -> int:
    """Show the job; the exit code. `words` are the options that name the cluster again."""
    console = Console()
    where = f"{client.cluster.context}/{client.namespace_of(name)}"
    transitions = Transitions()
    job, told = None, False
    try:
        with usage_errors(), contextlib.ExitStack() as stack:
            view: LiveView | PlainView
            if console.is_terminal and live:
                footer = f"{where}  Ctrl-C: stop watching; the job goes on"
                view = stack.enter_context(LiveView(console, name, footer))
            else:
                view = PlainView(click.echo)
            for job in client.observe(name, on_cut=view.event):
                for line in transitions.lines(job.status):
                    view.event(line)
                view.status(job.status)
                if not told and _ignored(job):
                    told = True
                    view.event("no operator has looked at this job yet; is one running?")
    except KeyboardInterrupt:
        click.echo(f"{name} goes on; asyncrl watch {name} {words}", err=True)
        return 130
    assert job is not None and job.outcome is not None
    outcome = job.outcome
    if outcome.phase == "Failed":
        click.echo(f"error: {outcome.message}", err=True)
    following = {"Suspended": "resume", "Failed": "logs", "Complete": "status"}[outcome.phase]
    rows = [("job", f"{where}/{name}"), ("next", f"asyncrl {following} {name} {words}")]
    console.print(summary(name, outcome, job.status, rows), soft_wrap=True)
    return outcome.exit_code


def _ignored(job: Job) -> bool:
    """Whether an operator that runs would have written a status by now."""
    age = (datetime.now(UTC) - job.created).total_seconds()
    return job.status.observed_generation is None and age >= IGNORED_SECONDS
