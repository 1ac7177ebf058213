"""`asyncrl status`: the state of a run, once."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click
import yaml
from pydantic import ValidationError
from rich.console import Console

from asyncrl.backends.status import status_json
from asyncrl.cli.arguments import (
    UsageFailure,
    cluster_options,
    cluster_words,
    connect,
    run_argument,
    usage_errors,
)
from asyncrl.job_table import job_table
from asyncrl.live import Picture
from asyncrl.run_folder import RunFolder, find_run_folder
from asyncrl.summary import shown
from asyncrl_api.manifest import load_manifest
from asyncrl_api.status import JobStatus

OVER = ("Complete", "Failed", "Suspended")


@click.command("status")
@run_argument()
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Print the document.")
@cluster_options(selects=True)
def command(
    run: str | None, output: str | None, context: str | None, namespace: str | None
) -> None:
    """Show the state of RUN: a run folder, a name under runs/, or the newest by default.

    With --namespace or --context: of the job of this name on the cluster; without a name, of all
    jobs of the namespace in a table.
    """
    with usage_errors():
        if context is None and namespace is None:
            _local(run, output)
        elif run is None:
            _all_jobs(context, namespace, output)
        else:
            _job(run, context, namespace, output)


def _local(run: str | None, output: str | None) -> None:
    folder = find_run_folder(run)
    job = load_manifest(folder.manifest)
    status, text = _read(folder)
    if output is not None:
        _print(text, output)
        return
    _show(job.name, shown(folder.path), status)
    if status.phase not in OVER and not folder.in_use():
        where = shown(folder.path)
        click.echo(
            "its supervisor is gone; continue with "
            f"`asyncrl run {shown(folder.manifest)} --output {where} --resume`"
        )


def _job(name: str, context: str | None, namespace: str | None, output: str | None) -> None:
    client = connect(context, namespace)
    status = client.status(name)
    if output is not None:
        _print(status_json(status), output)
        return
    _show(name, f"{client.cluster.context}/{client.namespace}", status)
    if status.observed_generation is None and not status.conditions:
        click.echo("no operator has looked at this job yet; is one running for its namespace?")


def _all_jobs(context: str | None, namespace: str | None, output: str | None) -> None:
    client = connect(context, namespace)
    jobs = client.jobs()
    if output is not None:
        statuses = {job.name: json.loads(status_json(job.status)) for job in jobs}
        _print(json.dumps(statuses, indent=2) + "\n", output)
        return
    if not jobs:
        words = cluster_words(client.namespace, context)
        click.echo(f"no jobs in namespace {client.namespace}; asyncrl submit FILE {words}")
        return
    click.echo(job_table(jobs, datetime.now(UTC)))


def _print(text: str, output: str) -> None:
    if output == "yaml":
        text = yaml.safe_dump(yaml.safe_load(text), sort_keys=False)
    click.echo(text, nl=False)


def _show(name: str, footer: str, status: JobStatus) -> None:
    picture = Picture(name)
    picture.footer(footer)
    picture.status(status)
    Console().print(picture)
    if status.message:
        click.echo(f"{status.reason}: {status.message}")


def _read(folder: RunFolder) -> tuple[JobStatus, str]:
    try:
        text = folder.status.read_text(encoding="utf-8")
        return JobStatus.model_validate_json(text), text
    except (OSError, ValidationError) as error:
        raise UsageFailure(f"{folder.status}: no readable status ({error})") from error
