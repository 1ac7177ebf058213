"""Manifests that keep and that break each rule between fields, for the models and for the CRD."""

from typing import Any

from asyncrl_api.manifest import read_document, set_path

MINIMAL = """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: a}
spec: {workload: {gymnasium: {id: CartPole-v1}}}
"""

RULES: list[tuple[list[str], str | None]] = [
    ([], None),
    (["spec.workload={}"], "spec.workload"),
    (["spec.algorithm.cBar=1.5"], "spec.algorithm.cBar"),
    (["spec.algorithm.cBar=1.5", "spec.algorithm.rhoBar=2"], None),
    (["spec.alignment.low=0.5"], "spec.alignment.low"),
    (["spec.alignment.low=0.3"], None),
    (["spec.alignment.deviations.low=9"], "spec.alignment.deviations.low"),
    (["spec.stability.thresholds.kl.watch=1"], "spec.stability.thresholds.kl.watch"),
    (
        ["spec.stability.thresholds.effectiveSampleSize.watch=0.1"],
        "spec.stability.thresholds.effectiveSampleSize.watch",
    ),
    (["spec.actors.minReplicas=3"], "spec.actors.replicas"),
    (["spec.actors.maxReplicas=1"], "spec.actors.replicas"),
    (["spec.actors.minReplicas=1", "spec.actors.maxReplicas=2"], None),
    (["spec.learner.replicas=3"], "spec.learner.replicas"),
    (["spec.algorithm.minibatches=3"], "spec.learner.replicas"),
    (["spec.algorithm.minibatches=8"], None),
    (["spec.learner.replicas=3", "spec.workload.gymnasium.environments=33"], None),
    (["spec.learner.replicas=32"], None),
    (
        ["spec.alignment.adamDamping=true", "spec.optimizer.name=sgd"],
        "spec.alignment.adamDamping",
    ),
    (["spec.alignment.adamDamping=true"], None),
    (["spec.checkpoint.volume={}"], "spec.checkpoint.volume"),
    (["spec.checkpoint.volume={claim: {}}"], None),
    (["spec.checkpoint.volume={existingClaim: here}"], None),
    (["spec.optimizer.schedule=linear"], None),
    (["spec.optimizer.schedule=linear", "spec.stopping={}"], None),
    (
        ["spec.optimizer.schedule=linear", "spec.stopping.targetReturn=1"],
        "spec.optimizer.schedule",
    ),
    (
        [
            "spec.optimizer.schedule=linear",
            "spec.stopping={targetReturn: 1, policyVersions: 9}",
        ],
        None,
    ),
]
"""Assignments to MINIMAL, and the field that is refused; None where all is well."""

CLAIM = ["spec.checkpoint.volume={claim: {}}"]
EXISTING = ["spec.checkpoint.volume={existingClaim: a}"]

CHANGES: list[tuple[list[str], str, str | None]] = [
    ([], "spec.seed=1", "spec.seed"),
    ([], "spec.workload.gymnasium.id=Acrobot-v1", "spec.workload.gymnasium.id"),
    ([], "spec.workload.gymnasium.environments=8", "spec.workload.gymnasium.environments"),
    ([], "spec.network.activation=relu", "spec.network.activation"),
    ([], "spec.algorithm.name=impala", "spec.algorithm.name"),
    ([], "spec.algorithm.normalizeObservations=false", "spec.algorithm.normalizeObservations"),
    ([], "spec.algorithm.normalizeValues=false", "spec.algorithm.normalizeValues"),
    ([], "spec.optimizer.name=sgd", "spec.optimizer.name"),
    ([], "spec.actors.replicas=9", None),
    ([], "spec.optimizer.learningRate=1e-4", None),
    ([], "spec.staleness.max=0", None),
    ([], "spec.runPolicy.suspend=true", None),
    ([], "spec.runPolicy.disruptionLimit=100", None),
    ([], "spec.checkpoint.volume=null", None),
    ([], "spec.checkpoint.volume={claim: {}}", "spec.checkpoint.volume"),
    ([], "spec.checkpoint.volume={existingClaim: a}", "spec.checkpoint.volume"),
    (EXISTING, "spec.checkpoint.keep=9", None),
    (EXISTING, "spec.checkpoint.volume.claim=null", None),
    (EXISTING, "spec.checkpoint.volume=null", "spec.checkpoint.volume"),
    (EXISTING, "spec.checkpoint.volume.existingClaim=b", "spec.checkpoint.volume.existingClaim"),
    (CLAIM, "spec.checkpoint.volume.claim.size=2Gi", None),
    (CLAIM, "spec.checkpoint.volume.claim.storageClassName=null", None),
    (CLAIM, "spec.checkpoint.volume=null", "spec.checkpoint.volume"),
    (
        CLAIM,
        "spec.checkpoint.volume.claim.accessMode=ReadWriteMany",
        "spec.checkpoint.volume.claim.accessMode",
    ),
    (
        CLAIM,
        "spec.checkpoint.volume.claim.storageClassName=fast",
        "spec.checkpoint.volume.claim.storageClassName",
    ),
]
"""What a job has, an assignment to it while it exists, and the field that is refused; None where it
may change.
"""


def document_with(*assignments: str) -> dict[str, Any]:
    document = read_document(MINIMAL)
    for assignment in assignments:
        set_path(document, assignment)
    return document
