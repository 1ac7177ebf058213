"""Stable-Baselines3 PPO with the settings of rl-baselines3-zoo; runs in that peer's environment.

    python driver.py throughput CartPole-v1 --seconds 30 --seed 0
    python driver.py return CartPole-v1 --target 475 --seconds 120 --seed 0

The last line of the output is one JSON object. Times are time.time(), so that whoever started this
process can tell what its start-up took.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time

import gymnasium
import numpy
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env

EVALUATION_ENVIRONMENTS = 20  # as many as episodes, so that none is preferred for being short


def linear(start):
    return lambda remaining: remaining * start


# rl-baselines3-zoo, hyperparams/ppo.yml. It has no entry for LunarLander-v3; v2's is used.
SETTINGS = {
    "CartPole-v1": {
        "n_envs": 8,
        "steps": 100_000,
        "ppo": {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": linear(0.001),
            "clip_range": linear(0.2),
        },
    },
    "LunarLander-v3": {
        "n_envs": 16,
        "steps": 1_000_000,
        "ppo": {
            "n_steps": 1024,
            "batch_size": 64,
            "gae_lambda": 0.98,
            "gamma": 0.999,
            "n_epochs": 4,
            "ent_coef": 0.01,
        },
    },
}


class Counter(BaseCallback):
    """Samples (time, environment steps) after each update; ends the run after `seconds`."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.samples = []

    def _on_training_start(self):
        self.samples.append((time.time(), 0))

    def _on_rollout_start(self):
        self.samples.append((time.time(), self.num_timesteps))

    def _on_step(self):
        return time.time() - self.samples[0][0] < self.seconds


class TimedEvaluation(EvalCallback):
    """Evaluates greedily until the target or the deadline; adds up what evaluating took."""

    def __init__(self, environment, *, target, deadline, episodes, interval, n_envs):
        super().__init__(
            environment,
            n_eval_episodes=episodes,
            eval_freq=max(1, interval // n_envs),
            verbose=0,
            warn=False,
        )
        self.target = target
        self.deadline = deadline
        self.seconds = 0.0
        self.history = []

    def _on_step(self):
        before, started = len(self.history), time.time()
        if self.n_calls % self.eval_freq == 0:
            super()._on_step()
            self.seconds += time.time() - started
            self.history.append((time.time(), self.num_timesteps, float(self.last_mean_reward)))
        reached = len(self.history) > before and self.history[-1][2] >= self.target
        return not reached and time.time() < self.deadline


def make_model(environment_id, seed):
    settings = SETTINGS[environment_id]
    environment = make_vec_env(environment_id, n_envs=settings["n_envs"], seed=seed)
    return PPO("MlpPolicy", environment, seed=seed, device="cpu", verbose=0, **settings["ppo"])


def throughput(arguments):
    counter = Counter(arguments.seconds)
    # So many steps that the time ends the run; the schedules hardly move, which costs no time.
    make_model(arguments.environment, arguments.seed).learn(10**8, callback=counter)
    return {"samples": counter.samples}


def time_to_return(arguments):
    settings = SETTINGS[arguments.environment]
    evaluation = TimedEvaluation(
        make_vec_env(
            arguments.environment, n_envs=EVALUATION_ENVIRONMENTS, seed=arguments.seed + 1000
        ),
        target=arguments.target,
        deadline=time.time() + arguments.seconds,
        episodes=arguments.episodes,
        interval=arguments.interval,
        n_envs=settings["n_envs"],
    )
    model = make_model(arguments.environment, arguments.seed)
    model.learn(settings["steps"], callback=evaluation)
    ended = time.time()
    reached = [entry for entry in evaluation.history if entry[2] >= arguments.target]
    return {
        "reached": reached[0][0] if reached else None,
        "ended": ended,
        "steps": reached[0][1] if reached else model.num_timesteps,
        "best": max((entry[2] for entry in evaluation.history), default=None),
        "evaluation_seconds": evaluation.seconds,
        "history": evaluation.history,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("throughput", "return"))
    parser.add_argument("environment", choices=sorted(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, required=True, help="of training, at most")
    parser.add_argument("--target", type=float)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--interval", type=int, default=5000, help="steps between evaluations")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = throughput if arguments.mode == "throughput" else time_to_return
    result = run(arguments)
    result["versions"] = {
        "stable-baselines3": stable_baselines3.__version__,
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "numpy": numpy.__version__,
        "Python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
