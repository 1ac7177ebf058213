"""A step of a pipeline: submit a job, wait for its end, and fail where it failed.

    python examples/pipeline_step.py examples/cartpole.yaml           # on the cluster
    python examples/pipeline_step.py examples/cartpole.yaml local     # on this machine

In a pod it needs no kubeconfig: the service account of the step is used, with the cluster role
`edit` in its namespace, or with `asyncrl-view` and `asyncrl-edit`. There a step that is tried again
finds its job and goes on waiting; on this machine a run ends with its step, and the next step
begins a new one.
"""

from __future__ import annotations

import sys

from asyncrl.client import Client, cluster, local


def main(manifest: str, where: str = "cluster") -> int:
    client: Client = local() if where == "local" else cluster()
    name = client.submit(manifest)
    outcome = client.wait(name, timeout=3600)
    print(f"{name}: {outcome.phase}, {outcome.reason} {outcome.message}".rstrip())
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
