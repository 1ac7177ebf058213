"""`asyncrl run`: a job on this machine, from its start to its end."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path

import click
from rich.console import Console

from asyncrl.backends.local import Display, LocalRun, Silent
from asyncrl.cli.arguments import UsageFailure, manifest_argument, set_option, usage_errors
from asyncrl.errors import install
from asyncrl.live import LiveView
from asyncrl.plain import PlainView
from asyncrl.report import write_report
from asyncrl.run_folder import RunFolder, find_run_of, new_run_folder
from asyncrl.summary import run_rows, shown, summary
from asyncrl_api.manifest import load_manifest
from asyncrl_api.spec import AsyncRLJob

WORKER_MODULES = ("torch", "gymnasium", "grpc", "safetensors", "prometheus_client")


@click.command("run")
@manifest_argument()
@set_option()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run.  [default: runs/NAME-TIME]",
)
@click.option(
    "--resume", is_flag=True, help="Continue in --output, or in the newest run of this name."
)
@click.option("--quiet", is_flag=True, help="Print only how the run ended.")
@click.option("--no-live", is_flag=True, help="Plain lines, also in a terminal.")
def command(
    file: str,
    overrides: tuple[str, ...],
    output: Path | None,
    resume: bool,
    quiet: bool,
    no_live: bool,
) -> None:
    """Run the job of the manifest FILE on this machine.

    Ctrl-C ends it after a checkpoint, a second Ctrl-C at once. Everything the run leaves is in its
    folder: the resolved manifest, status.json, metrics, checkpoints, logs and report.html.
    """
    with usage_errors():
        job = load_manifest(Path(file), overrides)
        _refuse_what_cannot_run(job)
        folder = _folder(job, output, resume)
        console = Console()
        with contextlib.ExitStack() as stack:
            display: Display
            if quiet:
                display = Silent()
            elif console.is_terminal and not no_live:
                footer = f"{shown(folder.path)}  Ctrl-C: checkpoint and end"
                display = stack.enter_context(LiveView(console, job.name, footer))
            else:
                display = PlainView(click.echo)
            run = LocalRun(job, folder.path, resume=resume, display=display)
            outcome = run.wait()
    if outcome.phase == "Failed":
        click.echo(f"error: {outcome.message}", err=True)
    report = _write_report(run.folder)
    rows = run_rows(outcome, run.folder.path, report)
    console.print(summary(job.name, outcome, run.status, rows), soft_wrap=True)
    sys.exit(outcome.exit_code)


def _refuse_what_cannot_run(job: AsyncRLJob) -> None:
    missing = [name for name in WORKER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageFailure(f"{', '.join(missing)}: not installed here; {install('worker')}")
    if job.spec.run_policy.suspend:
        raise UsageFailure(
            "spec.runPolicy.suspend: is true; add --set spec.runPolicy.suspend=false to run"
        )


def _folder(job: AsyncRLJob, output: Path | None, resume: bool) -> RunFolder:
    if resume and output is None:
        return find_run_of(job.name)
    return new_run_folder(job.name, output)


def _write_report(folder: RunFolder) -> Path | None:
    """The page with the plots, if there is anything to plot; a run is no failure for its lack."""
    if not folder.metrics.is_file():
        return None
    try:
        return write_report(folder.path)
    except (OSError, ValueError) as error:
        click.echo(f"report.html: not written: {error}", err=True)
        return None
