"""The operator's process: `asyncrl-operator`, or `python -m asyncrl_operator`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio.config import ConfigException

from asyncrl_operator import logs
from asyncrl_operator.endpoint import endpoint
from asyncrl_operator.kube.client import Api, ApiError
from asyncrl_operator.lease import Lease, LeaseLost
from asyncrl_operator.metrics import OperatorMetrics
from asyncrl_operator.plan.settings import DEFAULT_WORKER_IMAGE, Settings
from asyncrl_operator.process import OperatorProcess, Unusable

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
RESTART_RULES_SINCE = (1, 35)
"""Kubernetes versions from which containers can be restarted by exit code."""
LEVELS = ("debug", "info", "warning", "error")

log = logging.getLogger("asyncrl.operator")


@dataclass(frozen=True)
class Options:
    """The command line."""

    namespaces: tuple[str, ...]
    worker_image: str
    log_level: str
    host: str
    metrics_port: int
    report_interval: float
    lease: str | None = None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line; argparse ends the process where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="asyncrl-operator",
        description="Runs AsyncRLJobs on the cluster of KUBECONFIG, or on the one it is a pod of.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--namespace",
        action="append",
        default=None,
        metavar="NS",
        help="only this namespace, repeatable; all without",
    )
    parser.add_argument(
        "--worker-image",
        default=DEFAULT_WORKER_IMAGE,
        help="image of roles that name none; %(default)s",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    parser.add_argument("--metrics-host", default="0.0.0.0", help="%(default)s")
    parser.add_argument(
        "--metrics-port", type=int, default=8080, help="/metrics, /healthz, /readyz; %(default)s"
    )
    parser.add_argument(
        "--report-interval",
        type=float,
        default=5.0,
        help="seconds between reports of a learner, and so between new numbers of a status",
    )
    parser.add_argument(
        "--lease",
        metavar="NAME",
        help="of the operators that share the Lease NAME in their namespace one works, and the "
        "others stand by; without, this one is taken to be the only one",
    )
    known = parser.parse_args(arguments)
    if known.report_interval <= 0:
        parser.error(f"--report-interval {known.report_interval}: must be greater than 0")
    return Options(
        namespaces=tuple(dict.fromkeys(known.namespace or ())),
        worker_image=known.worker_image,
        log_level=known.log_level,
        host=known.metrics_host,
        metrics_port=known.metrics_port,
        report_interval=known.report_interval,
        lease=known.lease,
    )


async def serve(
    options: Options, stop: asyncio.Event, metrics: OperatorMetrics | None = None
) -> None:
    """Run until `stop`. Raises ApiError, ConfigException, OSError or Unusable if it cannot."""
    metrics = metrics or OperatorMetrics()
    kubeconfig = os.environ.get("KUBECONFIG") or None
    async with await Api.connect(kubeconfig=kubeconfig, count=metrics.count_request) as api:
        version = await api.version()
        settings = Settings(
            worker_image=options.worker_image,
            operator_namespace=_own_namespace(),
            report_interval=options.report_interval,
            restart_rules=version >= RESTART_RULES_SINCE,
        )
        lease = None
        if options.lease is not None:
            lease = Lease(api, _own_namespace(), options.lease, _holder())
        process = OperatorProcess(api, settings, metrics, stop, lease)
        log.info(
            "event=started kubernetes=%d.%d namespaces=%s worker_image=%s",
            *(*version, ",".join(options.namespaces) or "all", options.worker_image),
        )
        async with endpoint(
            options.host,
            options.metrics_port,
            metrics.registry,
            health=process.health,
            ready=process.ready,
        ):
            await process.run(options.namespaces or (None,))


def _own_namespace() -> str:
    try:
        return OWN_NAMESPACE.read_text().strip()
    except OSError:
        return os.environ.get("POD_NAMESPACE", "default")


def _holder() -> str:
    """Of a Lease. A pod's container that is restarted goes on with the one it had."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}_{uuid.uuid4()}"


async def _run(options: Options) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await serve(options, stop)
    except (Unusable, LeaseLost) as error:
        log.error('event=failed error="%s"', error)
        return 1
    except (ApiError, ConfigException, OSError) as error:
        line = " ".join(str(error).split())
        log.error(
            'event=failed error="%s; check KUBECONFIG, and that the API server answers"', line
        )
        return 1
    log.info("event=stopped")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator; the exit code."""
    options = parse(arguments)
    logs.configure(options.log_level)
    return asyncio.run(_run(options))


if __name__ == "__main__":
    sys.exit(main())
