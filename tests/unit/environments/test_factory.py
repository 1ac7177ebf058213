"""Environments are described and made; what cannot be made is refused in one clear line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from unit.environments.toys import workload

from asyncrl_api.workload import Gymnasium, Workload
from asyncrl_worker.environments.factory import describe, make_vector_environment
from asyncrl_worker.environments.faults import EnvironmentFault
from asyncrl_worker.environments.spaces import Continuous, Discrete, EnvironmentDescription

REGISTER = "register the wrapped environment in a module named in spec.workload.gymnasium.modules"


def plain(id: str, **fields: object) -> Workload:
    return Workload(gymnasium=Gymnasium.model_validate({"id": id, **fields}))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (plain("CartPole-v1"), EnvironmentDescription(4, (4,), Discrete(2))),
        (
            plain("Pendulum-v1"),
            EnvironmentDescription(3, (3,), Continuous(1, (-2.0,), (2.0,))),
        ),
        (
            workload("Spaces-v0", observation="image", action="shifted"),
            EnvironmentDescription(60, (4, 5, 3), Discrete(3, start=5)),
        ),
        (
            workload("Spaces-v0", observation="point", action="matrix"),
            EnvironmentDescription(1, (), Continuous(4, (-2.0,) * 4, (1.0, 2.0, 3.0, 4.0))),
        ),
    ],
)
def test_describes(task: Workload, expected: EnvironmentDescription) -> None:
    assert describe(task) == expected


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            plain("CartPol-v1"),
            "spec.workload.gymnasium.id: 'CartPol-v1' is not registered; did you mean "
            "'CartPole-v1'? (an id from another package needs its module in "
            "spec.workload.gymnasium.modules)",
        ),
        (
            plain("LunarLander-v2"),
            "spec.workload.gymnasium.id: 'LunarLander-v2' is not registered; did you mean "
            "'LunarLander-v3'? (an id from another package needs its module in "
            "spec.workload.gymnasium.modules)",
        ),
        (
            plain("Qzx"),
            "spec.workload.gymnasium.id: 'Qzx' is not registered; gymnasium.pprint_registry() "
            "lists all ids (an id from another package needs its module in "
            "spec.workload.gymnasium.modules)",
        ),
        (
            plain("no_such_module:Thing-v0"),
            "spec.workload.gymnasium.id: cannot import 'no_such_module': ModuleNotFoundError: No "
            "module named 'no_such_module'; correct its name, or put it on the PYTHONPATH of "
            "actors and learner",
        ),
        (
            plain("CartPole-v1", modules=["no_such_module"]),
            "spec.workload.gymnasium.modules: cannot import 'no_such_module': "
            "ModuleNotFoundError: No module named 'no_such_module'; correct its name, or put it "
            "on the PYTHONPATH of actors and learner",
        ),
        (
            workload("NeedsPackage-v0"),
            "spec.workload.gymnasium.id: 'NeedsPackage-v0' needs a missing package: No module "
            "named 'warp_drive'; install it on actors and learner",
        ),
        (
            workload("NeedsSimulator-v0"),
            "spec.workload.gymnasium.id: 'NeedsSimulator-v0' needs a missing package: The "
            "simulator is not installed; install it on actors and learner",
        ),
        (
            plain("CartPole-v1", kwargs={"gravitas": 3}),
            "spec.workload.gymnasium.kwargs: 'CartPole-v1' refuses {'gravitas': 3}: "
            "CartPoleVectorEnv.__init__() got an unexpected keyword argument 'gravitas'; "
            "correct or remove it",
        ),
        (
            plain("CartPole-v1", kwargs={"num_envs": 3}),
            "spec.workload.gymnasium.kwargs: 'num_envs' is not an argument of the environment; "
            "use the fields environments and vectorization instead",
        ),
        (
            workload("Faulty-v0", fault="constructor"),
            "spec.workload.gymnasium.id: 'Faulty-v0' raised while it was made: RuntimeError: no "
            "licence; correct the environment's code or its kwargs",
        ),
        (
            workload("Spaces-v0", observation="number", action="shifted"),
            "spec.workload.gymnasium.id: 'Spaces-v0' has observations Discrete(5), but only Box "
            "spaces of numbers are supported; wrap it (gymnasium.wrappers.FlattenObservation) "
            f"and {REGISTER}",
        ),
        (
            workload("Spaces-v0", observation="double", action="several"),
            "spec.workload.gymnasium.id: 'Spaces-v0' has actions MultiDiscrete([2 3]), but only "
            f"Discrete and Box spaces of real numbers are supported; wrap it and {REGISTER}",
        ),
        (
            workload("Spaces-v0", observation="double", action="integers"),
            "spec.workload.gymnasium.id: 'Spaces-v0' has actions Box(0, 4, (2,), int64), but only "
            f"Discrete and Box spaces of real numbers are supported; wrap it and {REGISTER}",
        ),
        (
            workload("SameStepVector-v0", script=[(2, "end")]),
            "spec.workload.gymnasium.vectorization: the vectorised form of 'SameStepVector-v0' "
            "declares autoreset mode SAME_STEP, but NEXT_STEP is needed; use vectorization: sync "
            "(or async)",
        ),
        (Workload.model_construct(gymnasium=None), "spec.workload.gymnasium: is missing; "),
    ],
)
def test_refuses_in_one_line(task: Workload, message: str) -> None:
    with pytest.raises(EnvironmentFault) as raised:
        describe(task)
    line = str(raised.value)
    assert line == message or (message.endswith((": ", "; ")) and line.startswith(message))
    assert "\n" not in line
    assert raised.value.exit_code == 2


def test_the_reason_tells_an_unknown_id_from_a_broken_environment() -> None:
    with pytest.raises(EnvironmentFault) as unknown:
        describe(plain("CartPol-v1"))
    with pytest.raises(EnvironmentFault) as broken:
        describe(workload("Faulty-v0", fault="constructor"))
    assert (unknown.value.reason, broken.value.reason) == (
        "UnknownEnvironment",
        "EnvironmentFailed",
    )


def test_a_vectorised_form_in_another_mode_works_as_sync() -> None:
    task = workload("SameStepVector-v0", vectorization="sync", script=[(2, "end")])
    environment = make_vector_environment(task, environments=3)
    assert environment.environments == 3
    environment.close()


def test_policies_and_fragments_need_no_gymnasium() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = sys.modules['torch'] = None;"
        "import asyncrl_worker.fragment, asyncrl_worker.policies.inference"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_actor_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import asyncrl_worker.actor.main"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
