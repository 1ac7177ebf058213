"""Makes the environments that `spec.workload` names, and says clearly why it cannot."""

from __future__ import annotations

import difflib
import importlib
import math
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from asyncrl_api.reasons import Reason
from asyncrl_worker.environments.batched import BatchedVectorEnvironment
from asyncrl_worker.environments.faults import FIELD, EnvironmentFault
from asyncrl_worker.environments.serial import SerialVectorEnvironment
from asyncrl_worker.environments.spaces import (
    ActionSpace,
    Continuous,
    Discrete,
    EnvironmentDescription,
)
from asyncrl_worker.environments.vector import Progress, VectorEnvironment

if TYPE_CHECKING:
    from asyncrl_api.workload import Gymnasium, Workload

GYMNASIUM_FIELD = "spec.workload.gymnasium"
KWARGS_FIELD = "spec.workload.gymnasium.kwargs"
MODULES_FIELD = "spec.workload.gymnasium.modules"
VECTORIZATION_FIELD = "spec.workload.gymnasium.vectorization"

# Arguments of gymnasium.make_vec itself: fields of the manifest decide them, or they are fixed.
RESERVED_KWARGS = frozenset({"num_envs", "vectorization_mode", "vector_kwargs", "wrappers", "id"})


def describe(workload: Workload, progress: Progress | None = None) -> EnvironmentDescription:
    """What a policy must know of the environment; makes one and closes it again.

    Args:
        progress: written to while the environment's code runs, for a watchdog.

    Raises:
        EnvironmentFault: it cannot be made, or has spaces that are not supported.
    """
    gym = _gymnasium(workload)
    kind = "sync" if gym.vectorization == "async" else gym.vectorization
    environment = _make(gym, 1, kind, progress or Progress())
    environment.close()
    return environment.description


def make_vector_environment(
    workload: Workload, *, environments: int, progress: Progress | None = None
) -> VectorEnvironment:
    """`environments` copies, to be reset before the first step.

    Vectorisation `auto` uses the environment's own vectorised form where it is registered with one
    (`vector_entry_point`), else steps one after another in this process; `async` gives each a
    process of its own, which pays off for slow ones.

    Args:
        progress: written to while the environment's code runs, for a watchdog.

    Raises:
        EnvironmentFault: they cannot be made, or have spaces that are not supported.
    """
    gym = _gymnasium(workload)
    return _make(gym, environments, gym.vectorization, progress or Progress())


def _gymnasium(workload: Workload) -> Gymnasium:
    if workload.gymnasium is None:
        raise EnvironmentFault(
            Reason.ENVIRONMENT_FAILED,
            "is missing; give the id of an environment",
            field=GYMNASIUM_FIELD,
        )
    return workload.gymnasium


def _make(
    gym: Gymnasium, environments: int, vectorization: str, progress: Progress
) -> VectorEnvironment:
    progress.phase = "making"
    reserved = sorted(RESERVED_KWARGS.intersection(gym.kwargs))
    if reserved:
        raise EnvironmentFault(
            Reason.ENVIRONMENT_FAILED,
            f"{reserved[0]!r} is not an argument of the environment; "
            "use the fields environments and vectorization instead",
            field=KWARGS_FIELD,
        )
    _import_modules(gym.modules, MODULES_FIELD)
    spec = _find(gym.id)
    native = spec.vector_entry_point is not None and not spec.additional_wrappers
    try:
        if vectorization == "async":
            made = _make_async(gym, environments, progress)
        elif vectorization == "auto" and native:
            made = _make_native(gym, environments, progress)
        else:
            made = _make_serial(gym, environments, progress)
    except EnvironmentFault:
        raise
    except Exception as error:
        raise _unmakeable(gym, spec, error) from error
    progress.phase = None
    return made


def _make_serial(gym: Gymnasium, environments: int, progress: Progress) -> VectorEnvironment:
    made = []
    for i in range(environments):
        progress.environment = i
        # The passive checker only warns, and costs a call per step; the checks here are ours.
        made.append(gymnasium.make(gym.id, disable_env_checker=True, **gym.kwargs))
    description = _description(gym.id, made[0].observation_space, made[0].action_space)
    return SerialVectorEnvironment(made, description, name=gym.id, progress=progress)


def _make_async(gym: Gymnasium, environments: int, progress: Progress) -> VectorEnvironment:
    vector = gymnasium.make_vec(
        gym.id,
        num_envs=environments,
        vectorization_mode="async",
        # Observations are copied from the shared memory straight into the fragment.
        vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP, "copy": False},
        disable_env_checker=True,
        **gym.kwargs,
    )
    return _batched(gym, vector, progress)


def _make_native(gym: Gymnasium, environments: int, progress: Progress) -> VectorEnvironment:
    vector = gymnasium.make_vec(
        gym.id, num_envs=environments, vectorization_mode="vector_entry_point", **gym.kwargs
    )
    mode = vector.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        vector.close()
        declared = mode.name if isinstance(mode, AutoresetMode) else mode
        raise EnvironmentFault(
            Reason.UNSUPPORTED_ENVIRONMENT,
            f"the vectorised form of '{gym.id}' declares autoreset mode {declared}, but "
            "NEXT_STEP is needed; use vectorization: sync (or async)",
            field=VECTORIZATION_FIELD,
        )
    return _batched(gym, vector, progress)


def _batched(
    gym: Gymnasium, vector: gymnasium.vector.VectorEnv[Any, Any, Any], progress: Progress
) -> VectorEnvironment:
    try:
        description = _description(
            gym.id, vector.single_observation_space, vector.single_action_space
        )
    except EnvironmentFault:
        vector.close()
        raise
    return BatchedVectorEnvironment(vector, description, name=gym.id, progress=progress)


def _description(
    name: str, observation: spaces.Space[Any], action: spaces.Space[Any]
) -> EnvironmentDescription:
    if not isinstance(observation, spaces.Box) or observation.dtype.kind not in "fiub":
        raise EnvironmentFault(
            Reason.UNSUPPORTED_ENVIRONMENT,
            f"'{name}' has observations {observation}, but only Box spaces of numbers are "
            "supported; wrap it (gymnasium.wrappers.FlattenObservation) and register the wrapped "
            f"environment in a module named in {MODULES_FIELD}",
        )
    return EnvironmentDescription(
        observation_size=math.prod(observation.shape),
        observation_shape=observation.shape,
        action=_action(name, action),
    )


def _action(name: str, space: spaces.Space[Any]) -> ActionSpace:
    if isinstance(space, spaces.Discrete):
        return Discrete(n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low = np.asarray(space.low, dtype=np.float32).reshape(-1)
        high = np.asarray(space.high, dtype=np.float32).reshape(-1)
        return Continuous(size=low.size, low=tuple(low.tolist()), high=tuple(high.tolist()))
    raise EnvironmentFault(
        Reason.UNSUPPORTED_ENVIRONMENT,
        f"'{name}' has actions {space}, but only Discrete and Box spaces of real numbers are "
        "supported; wrap it and register the wrapped environment in a module named in "
        f"{MODULES_FIELD}",
    )


def _import_modules(modules: list[str], field: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise EnvironmentFault(
                Reason.ENVIRONMENT_FAILED,
                f"cannot import '{module}': {type(error).__name__}: {error}; correct its name, or "
                "put it on the PYTHONPATH of actors and learner",
                field=field,
            ) from error


def _find(name: str) -> gymnasium.envs.registration.EnvSpec:
    module, _, registered = name.rpartition(":")
    if module:
        _import_modules([module], FIELD)
    try:
        return gymnasium.spec(registered)
    except gymnasium.error.Error as error:
        near = difflib.get_close_matches(name, gymnasium.registry, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "gymnasium.pprint_registry() lists all ids"
        raise EnvironmentFault(
            Reason.UNKNOWN_ENVIRONMENT,
            f"'{name}' is not registered; {hint} (an id from another package needs its module in "
            f"{MODULES_FIELD})",
        ) from error


def _unmakeable(
    gym: Gymnasium, spec: gymnasium.envs.registration.EnvSpec, error: Exception
) -> EnvironmentFault:
    if isinstance(error, gymnasium.error.DependencyNotInstalled | ImportError):
        entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
        family = entry.removeprefix("gymnasium.envs.").split(".")[0].replace("_", "-")
        own = entry.startswith("gymnasium.envs.")
        remedy = f'pip install "gymnasium[{family}]"' if own else "install it on actors and learner"
        cause = str(error).split(",")[0].rstrip(".")
        return EnvironmentFault(
            Reason.ENVIRONMENT_FAILED, f"'{gym.id}' needs a missing package: {cause}; {remedy}"
        )
    if isinstance(error, gymnasium.error.Error):
        return EnvironmentFault(Reason.ENVIRONMENT_FAILED, f"'{gym.id}': {error}")
    if isinstance(error, TypeError) and gym.kwargs and "argument" in str(error):
        cause = str(error).split(" was raised from")[0]
        return EnvironmentFault(
            Reason.ENVIRONMENT_FAILED,
            f"'{gym.id}' refuses {gym.kwargs}: {cause}; correct or remove it",
            field=KWARGS_FIELD,
        )
    return EnvironmentFault(
        Reason.ENVIRONMENT_FAILED,
        f"'{gym.id}' raised while it was made: {type(error).__name__}: {error}; "
        "correct the environment's code or its kwargs",
    )
