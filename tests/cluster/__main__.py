"""A cluster to work with: `up` leaves one running, `down` ends it, `build` only fills the cache."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cluster import parts
from cluster.build import build
from cluster.cluster import EXISTING, Cluster
from cluster.images import IMAGES, Images
from cluster.network import Unavailable, require_node
from cluster.parts import cache_folder

START = 50 * 60.0
"""Seconds for a start, from an empty cache."""

STOP = 60.0


def folder() -> Path:
    """The state of the cluster that `up` left running."""
    return cache_folder() / "running"


def up(options: argparse.Namespace) -> int:
    """Start a cluster in the background, unless one runs, and print how to use it."""
    with_node = not options.control_plane and _can_run_a_node()
    if not _running():
        shutil.rmtree(folder(), ignore_errors=True)
        folder().mkdir(parents=True)
        build(parts.control_plane(), parts.ETCD, parts.HELM)
        command = [sys.executable, "-m", "cluster", "serve"]
        if not with_node:
            command.append("--control-plane")
        with (folder() / "log").open("wb") as log:
            server = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + START
        with (folder() / "log").open() as log_so_far:
            while not (folder() / "ready").exists():
                ended = server.poll() is not None or time.monotonic() > deadline
                print(log_so_far.read(), end="", file=sys.stderr, flush=True)
                if ended:
                    return 1
                time.sleep(0.1)
    print("The cluster is up. To use it:")
    print(f"  export KUBECONFIG={folder() / 'kubeconfig'}")
    print(f"  export PATH={parts.control_plane().folder}:{parts.HELM.folder}:$PATH")
    if with_node:
        print("Its node has the images of this checkout, by the names that the chart uses:")
        print("  helm install asyncrl charts/asyncrl --namespace asyncrl --create-namespace")
    return 0


def _can_run_a_node() -> bool:
    try:
        require_node()
    except Unavailable as reason:
        print(f"{reason}; without one, pods stay Pending", file=sys.stderr)
        return False
    return True


def serve(options: argparse.Namespace) -> int:
    """Run a cluster until SIGTERM or Ctrl-C."""
    folder().mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        lock = stack.enter_context((folder() / "pid").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.write(str(os.getpid()))
        lock.flush()
        cluster = stack.enter_context(Cluster(folder()))
        if not options.control_plane:
            print(f"{cluster.node.name} is ready", flush=True)
            for name in IMAGES:
                print(f"{cluster.publish(name).name} is on it", flush=True)
        shutil.copyfile(cluster.control_plane.kubeconfig, folder() / "kubeconfig")
        (folder() / "ready").touch()
        stop.wait()
    return 0


def down(options: argparse.Namespace) -> int:
    """End the cluster that `up` started."""
    if not _running():
        shutil.rmtree(folder(), ignore_errors=True)
        print("No cluster is up.")
        return 0
    os.kill(int((folder() / "pid").read_text()), signal.SIGTERM)
    deadline = time.monotonic() + STOP
    while _running():
        if time.monotonic() > deadline:
            print(f"the cluster did not end within {STOP:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.1)
    shutil.rmtree(folder())
    print("The cluster is gone.")
    return 0


def build_all(options: argparse.Namespace) -> int:
    """Build every part and image that a test run here needs."""
    # Also beside another cluster: tests with a node by hand, or an old version, have their own.
    build(parts.control_plane(), parts.control_plane(parts.OLDEST_KUBERNETES))
    build(parts.ETCD, parts.HELM, parts.MONITORING, parts.PROMTOOL)
    if os.environ.get(EXISTING):
        print(f"{EXISTING} names a cluster; no nodes and no images are built", file=sys.stderr)
        return 0
    build(parts.KWOK)
    try:
        require_node()
        images = Images()
    except Unavailable as error:
        print(f"{error}; tests with pods are left out", file=sys.stderr)
    else:
        build(parts.node(), parts.COREDNS, parts.KUBE_ROUTER)
        images.pause()
        for name in IMAGES:
            images.build(name)
    return 0


def _running() -> bool:
    """Whether a process of `serve` holds its lock; its id alone could be another program's."""
    try:
        with (folder() / "pid").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run in (("up", up), ("serve", serve), ("down", down), ("build", build_all)):
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(run=run)
        if name in ("up", "serve"):
            command.add_argument(
                "--control-plane", action="store_true", help="no node: pods stay Pending"
            )
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
