"""Sample Factory APPO, asynchronous, 2 workers x 16 environments, 1 epoch; runs in its environment.

    python driver.py throughput CartPole-v1 --seconds 30 --seed 0

The last line of the output is one JSON object. Times are time.time(), so that whoever started this
process can tell what its start-up took. Where nothing else is said, the settings are the
library's defaults; the network is the same as asyncrl's, two layers of 64.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from importlib.metadata import version

import gymnasium
import numpy
import torch
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

OPTIONS = {
    "algo": "APPO",
    "device": "cpu",
    "async_rl": True,
    "serial_mode": False,
    "batched_sampling": False,
    "num_workers": 2,
    "num_envs_per_worker": 16,
    "worker_num_splits": 2,
    "num_epochs": 1,
    "num_batches_per_epoch": 1,
    "rollout": 32,
    "batch_size": 1024,
    "use_rnn": False,
    "nonlinearity": "tanh",
    "decorrelate_experience_max_seconds": 0,
    "restart_behavior": "overwrite",
    "with_wandb": False,
}


class Counter(AlgoObserver):
    """Samples (time, environment steps trained) after every training iteration; ends the run.

    The library's own --train_for_seconds has no effect in 2.1.1: nothing counts its seconds.
    """

    def __init__(self, seconds):
        self.seconds = seconds
        self.samples = []
        self.lag = []

    def on_training_step(self, runner, training_iteration_since_resume):
        self.samples.append((time.time(), runner.env_steps.get(0, 0)))
        if self.samples[-1][0] - self.samples[0][0] >= self.seconds:
            runner.cfg.train_for_env_steps = 0  # it stops after this iteration
        average = runner.policy_lag[0].get("version_diff_avg")
        if average is not None:
            self.lag.append(float(average))


def make_environment(full_env_name, cfg=None, env_config=None, render_mode=None):
    return gymnasium.make(full_env_name, render_mode=render_mode)


def throughput(arguments, folder):
    register_env(arguments.environment, make_environment)
    options = OPTIONS | {
        "env": arguments.environment,
        "seed": arguments.seed,
        "train_for_env_steps": 10**9,
        "train_dir": folder,
        "experiment": "throughput",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    words += ["--encoder_mlp_layers", "64", "64"]
    parser, _ = parse_sf_args(words)
    _, runner = make_runner(parse_full_cfg(parser, words))
    counter = Counter(arguments.seconds)
    runner.register_observer(counter)
    status = runner.init()
    if status == ExperimentStatus.SUCCESS:
        status = runner.run()
    if status != ExperimentStatus.SUCCESS:
        raise SystemExit(f"sample-factory ended with status {status}")
    lag = sum(counter.lag) / len(counter.lag) if counter.lag else None
    return {"samples": counter.samples, "lag": lag}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("throughput",))
    parser.add_argument("environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, required=True, help="of training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = throughput(arguments, folder)
    result["versions"] = {
        "sample-factory": version("sample-factory"),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "numpy": numpy.__version__,
        "Python": platform.python_version(),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    sys.exit(main())
