"""The operator's process: `asyncrl-operator`, or `python -m asyncrl_operator`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio.config import ConfigException

from asyncrl_operator import logs
from asyncrl_operator.children import Children
from asyncrl_operator.endpoint import endpoint
from asyncrl_operator.handlers import run_kopf
from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.client import ASYNCRLJOB, Api, ApiError
from asyncrl_operator.lease import Lease, LeaseLost
from asyncrl_operator.metrics import OperatorMetrics
from asyncrl_operator.plan.settings import DEFAULT_WORKER_IMAGE, Settings
from asyncrl_operator.reconcile import Reconciler
from asyncrl_operator.reports import Reports
from asyncrl_operator.workqueue import WorkQueue

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
RESTART_RULES_SINCE = (1, 35)
"""Kubernetes versions from which containers can be restarted by exit code."""
SERVED_SECONDS = 1.0
TOLD_SECONDS = 30.0
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
    """The options; every one has an environment variable, which Helm sets."""
    environment = os.environ
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
        help="only this namespace, repeatable; all without (ASYNCRL_NAMESPACES, by commas)",
    )
    parser.add_argument(
        "--worker-image",
        default=environment.get("ASYNCRL_WORKER_IMAGE", DEFAULT_WORKER_IMAGE),
        help="image of roles that name none (ASYNCRL_WORKER_IMAGE; %(default)s)",
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
    given = environment.get("ASYNCRL_NAMESPACES", "")
    namespaces = known.namespace or [name for name in given.split(",") if name]
    if known.report_interval <= 0:
        parser.error(f"--report-interval {known.report_interval}: must be greater than 0")
    return Options(
        namespaces=tuple(dict.fromkeys(namespaces)),
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
    """Run until `stop`. Raises ApiError, ConfigException or OSError if it cannot begin."""
    metrics = metrics or OperatorMetrics()
    loop = asyncio.get_running_loop()
    kubeconfig = os.environ.get("KUBECONFIG") or None
    namespaces: tuple[str | None, ...] = options.namespaces or (None,)
    async with await Api.connect(kubeconfig=kubeconfig, count=metrics.count_request) as api:
        version = await api.version()
        settings = Settings(
            worker_image=options.worker_image,
            operator_namespace=_own_namespace(),
            report_interval=options.report_interval,
            restart_rules=version >= RESTART_RULES_SINCE,
        )
        queue = WorkQueue(loop.time)
        jobs = Jobs(queue.add)
        children = Children(api, namespaces, queue.add)
        reports = Reports(options.report_interval, queue.add)
        reconciler = Reconciler(api, jobs, children, reports, metrics, settings)
        watching, synced, leading = asyncio.Event(), asyncio.Event(), asyncio.Event()
        lease = None
        if options.lease is not None:
            lease = Lease(api, _own_namespace(), options.lease, _holder())

        async def lead() -> None:
            await synced.wait()
            if lease is not None:
                await lease.acquire()
                log.info("event=leading lease=%s", options.lease)
            metrics.leading.set(1)
            leading.set()
            await (stop.wait() if lease is None else lease.keep())

        async def work() -> None:
            # A decision from half a picture could make pods twice.
            await children.synced()
            await watching.wait()
            synced.set()
            log.info("event=ready")
            await leading.wait()
            if lease is not None:
                # What the holder before wrote last may not have come by the watch yet.
                await jobs.list(api, namespaces)
            await reconciler.run(queue)

        log.info(
            "event=started kubernetes=%d.%d namespaces=%s worker_image=%s",
            *(*version, ",".join(options.namespaces) or "all", options.worker_image),
        )
        async with endpoint(
            options.host,
            options.metrics_port,
            metrics.registry,
            health=lambda: (children.health() or jobs.health()) if synced.is_set() else None,
            ready=synced.is_set,
        ):
            await _until_served(api, namespaces, stop)
            parts = [
                asyncio.create_task(children.run(), name="children"),
                asyncio.create_task(run_kopf(jobs, namespaces, watching, stop), name="kopf"),
                asyncio.create_task(jobs.resync(api, namespaces), name="resync"),
                asyncio.create_task(lead(), name="lease"),
                asyncio.create_task(work(), name="reconciler"),
                asyncio.create_task(stop.wait(), name="stop"),
            ]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in done:
                    part.result()
            finally:
                stop.set()
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
                await reports.close()
                if lease is not None:
                    await lease.release()


class Unusable(Exception):
    """The operator cannot work on this cluster as it is; one line with the remedy."""


async def _until_served(api: Api, namespaces: Sequence[str | None], stop: asyncio.Event) -> None:
    """Wait until the API server knows AsyncRLJobs: Helm makes the definition and us at once."""
    told = 0.0
    for namespace in namespaces:
        while not stop.is_set():
            try:
                await api.list(ASYNCRLJOB, namespace, {"limit": 1})
                break
            except ApiError as error:
                if error.status == 403:
                    where = "in all namespaces" if namespace is None else f"in {namespace}"
                    line = f"may not list AsyncRLJobs {where}; grant it, or choose --namespace"
                    raise Unusable(line) from error
                if error.status != 404:
                    raise
            if time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                log.warning(
                    'event=waiting for="the CustomResourceDefinition of AsyncRLJob; install it"'
                )
            await asyncio.sleep(SERVED_SECONDS)


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
