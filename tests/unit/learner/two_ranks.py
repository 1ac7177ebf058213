"""One rank of a learner of several: trains on recorded batches and writes what came of it.

    python two_ranks.py RANK SIZE PORT FOLDER

FOLDER holds VARIANT.safetensors with the batches of every variant; RANK-VARIANT.safetensors and
.json are written.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from asyncrl_worker.environments.factory import describe
from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.followers import Follower, Followers
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.step import LearnerStep, UpdateResult
from asyncrl_worker.role import Stop

sys.path.insert(0, str(Path(__file__).parents[2]))

from unit.learner.streams import FRAGMENT_LENGTH, make_spec, make_step, snapshot

FIXED: dict[str, Any] = {
    "alignment.calibration": "fixed",
    "alignment.low": 0.1,
    "alignment.high": 0.7,
    "alignment.memoryDtype": "float32",
    "compensation.displacementProjection": 0.5,
    "compensation.klFeedback.mode": "target",
    "compensation.stepSize": "effectiveSampleSize",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "appo": FIXED,
    "all": FIXED | {"alignment.scope": "all", "algorithm.name": "impala"},
}
ENVIRONMENT = {"default": "Pendulum-v1"}


def spec_of(variant: str) -> Any:
    return make_spec(VARIANTS[variant], environment=ENVIRONMENT.get(variant, "CartPole-v1"))


def save_batches(path: Path, batches: list[Batch]) -> None:
    tensors = {
        f"{index}.{field.name}": getattr(batch, field.name)
        for index, batch in enumerate(batches)
        for field in fields(Batch)
    }
    save_file(tensors, path)


def load_batches(path: Path) -> list[Batch]:
    tensors = load_file(path)
    count = len(tensors) // len(fields(Batch))
    return [
        Batch(**{f.name: tensors[f"{i}.{f.name}"] for f in fields(Batch)}) for i in range(count)
    ]


def train(step: LearnerStep, ranks: Ranks, batches: list[Batch]) -> list[UpdateResult]:
    """What rank 0 does, alone or with followers; the schedule's progress travels too."""
    followers = Followers(ranks)
    results = []
    for index, batch in enumerate(batches):
        progress = index / len(batches)
        followers.share(batch, progress)
        results.append(step.update(followers.part(batch), progress=progress))
    followers.dismiss()
    return results


def described(result: UpdateResult) -> dict[str, Any]:
    document = asdict(result)
    document["alignment"]["regime"] = result.alignment.regime.value
    return document


def main(rank: int, size: int, port: str, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = Ranks.from_environment(deadline=60)
    assert ranks.meet(patience=60, stop=Stop())
    assert ranks.share(b"" if rank else b"rank 0's") == b"rank 0's"
    assert ranks.share(b"of the others" if rank else b"") == b""
    for variant in VARIANTS:
        spec = spec_of(variant)
        step = make_step(spec, ranks)
        results: list[UpdateResult] = []
        if rank == 0:
            results = train(step, ranks, load_batches(folder / f"{variant}.safetensors"))
        else:
            description = describe(spec.workload)
            follower = Follower(step, ranks, length=FRAGMENT_LENGTH, description=description)
            assert follower.run() == step.updates
        save_file(snapshot(step), folder / f"{rank}-{variant}.safetensors")
        document = [described(result) for result in results]
        (folder / f"{rank}-{variant}.json").write_text(json.dumps(document))
    ranks.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
