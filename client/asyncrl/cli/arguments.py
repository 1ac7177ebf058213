"""Arguments that several subcommands share, and the errors that end them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from asyncrl.errors import ClusterUnavailableError, JobError
from asyncrl.run_folder import RUNS
from asyncrl_api.errors import ManifestError

if TYPE_CHECKING:
    from asyncrl.backends.kubernetes import KubernetesClient

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class UsageFailure(click.ClickException):
    """A wrong manifest, folder or argument: each line on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the lines as they are: each names its field, folder or object."""
        for line in self.message.splitlines():
            click.echo(f"error: {line}", err=True)


class UnavailableFailure(UsageFailure):
    """The cluster does not answer: one line on stderr, exit code 69."""

    exit_code = 69


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what a user can put right into lines on stderr and exit code 2 (69 if unavailable)."""
    try:
        yield
    except ClusterUnavailableError as error:
        raise UnavailableFailure(str(error)) from error
    except (ManifestError, JobError) as error:
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


def job_argument() -> Decorator:
    """NAME: a job on the cluster."""
    return click.argument("name", metavar="NAME")


def cluster_options(*, selects: bool = False) -> Decorator:
    """--context and --namespace; where they select the cluster, their help says so."""
    here = "  [default: a run on this machine]" if selects else ""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        context = click.option(
            "--context",
            metavar="NAME",
            help="Context of the kubeconfig." + (here or "  [default: the current one]"),
        )
        namespace = click.option(
            "-n",
            "--namespace",
            metavar="NAME",
            help="Namespace of the job." + (here or "  [default: the context's]"),
        )
        return context(namespace(command))

    return decorate


def connect(context: str | None, namespace: str | None) -> KubernetesClient:
    """The cluster of the options."""
    from asyncrl.backends.kubernetes import KubernetesClient  # and with it, its HTTP client

    return KubernetesClient.connect(context, namespace)


def cluster_words(namespace: str, context: str | None) -> str:
    """The options that name this cluster and namespace again, for the next command."""
    chosen = f" --context {context}" if context is not None else ""
    return f"--namespace {namespace}{chosen}"
