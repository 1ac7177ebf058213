"""Arguments that several subcommands share, and the errors that end them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from asyncrl.run_folder import RUNS, RunFolderError
from asyncrl_api.errors import ManifestError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class UsageFailure(click.ClickException):
    """A wrong manifest, folder or argument: each line on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the lines as they are: each names its field or folder."""
        for line in self.message.splitlines():
            click.echo(f"error: {line}", err=True)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what a user can put right into lines on stderr and exit code 2."""
    try:
        yield
    except (ManifestError, RunFolderError) as error:
        raise UsageFailure(str(error)) from error


def _complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    names = sorted((path.parent.name for path in RUNS.glob("*/manifest.yaml")), reverse=True)
    return [name for name in names if name.startswith(incomplete)]


def manifest_argument() -> Decorator:
    """FILE: the manifest."""
    return click.argument("file", type=click.Path(exists=True, dir_okay=False), metavar="FILE")


def set_option() -> Decorator:
    """--set path=value, any number of times."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="Set a field of the manifest, as in --set spec.staleness.max=0. Repeatable.",
    )


def run_argument() -> Decorator:
    """[RUN]: a run folder."""
    return click.argument("run", required=False, shell_complete=_complete_run, metavar="[RUN]")
