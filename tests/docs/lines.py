"""Commands that do not simply run to their end, and what a page takes for given."""

from __future__ import annotations

FOLLOWED = {
    "kubectl get asyncrljob --watch": "Running",
    "kubectl get arl --watch": "Running",
    "asyncrl watch cartpole": "Running",
    "asyncrl watch endless": "Running",
}
"""Commands that a reader ends with Ctrl-C, and what they show before."""

ENDING = {
    "docs/command.md": ("team", "cartpole"),
    "docs/first-job.md": ("default", "cartpole"),
    "kubectl wait arl/cartpole --for=condition=Complete --timeout=10m": ("default", "cartpole"),
}
"""Commands, and pages with Python code, that wait for the end of a run: namespace and job."""

_IMAGES = "there is no container engine here: tests/cluster/test_images.py builds the Dockerfiles"
_LOGS = "reads a container's log: tests/cluster/test_command_logs.py, tests/cluster/pods"

ELSEWHERE = {
    "make test": "this test is a part of it",
    "docker build -f images/operator.Dockerfile -t registry.example.com/asyncrl-operator:0.1.0 .": (
        _IMAGES
    ),
    "docker build -f images/worker.Dockerfile -t registry.example.com/asyncrl-worker:0.1.0 .": (
        _IMAGES
    ),
    "docker push registry.example.com/asyncrl-operator:0.1.0": "there is no registry here",
    "docker push registry.example.com/asyncrl-worker:0.1.0": "there is no registry here",
    "make cluster": "changes the machine; tests/cluster has the same cluster for its tests",
    "kubectl logs --selector asyncrl.io/job=cartpole,asyncrl.io/role=learner --tail=20": _LOGS,
    "asyncrl logs endless --namespace default --role learner --lines 20": _LOGS,
    "asyncrl logs cartpole --namespace default --role actor --index 0 --follow": _LOGS,
}
"""Commands that are not run here, why, and what tests them or their like."""

INSTALLED = {"docs/command.md", "docs/security.md"}
"""Pages that take for given that the chart is installed."""

FILES = {
    "README.md": {
        "job.yaml": """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: small}
spec:
  workload: {gymnasium: {id: CartPole-v1}}
  stopping: {policyVersions: 5}
""",
    },
}
"""Files that the commands of a page take for given."""

_LOOP = """
import torch
policy = torch.nn.Linear(4, 2)
optimizer = torch.optim.Adam(policy.parameters())
loss = policy(torch.ones(1, 4)).sum()
"""

GIVEN = {
    "README.md": _LOOP,
    "docs/alignment.md": _LOOP,
    "docs/stability.md": "def my_training_loop():\n    yield 0.01, 0.1, 0.6, 20.0\n",
}
"""What the Python code of a page takes for given."""
