"""What is trained on: exactly one kind of workload."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from asyncrl_api.model import Model, Rule, option

ModuleName = Annotated[
    str,
    Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"),
]


class Gymnasium(Model):
    """Gymnasium environments with box observations and discrete or box actions."""

    id: str = option(
        ...,
        "Id of a registered Gymnasium environment, such as CartPole-v1.",
        min_length=1,
        max_length=253,
        remedy="use an id of gymnasium.registry, such as CartPole-v1",
    )
    kwargs: dict[str, Any] = option(
        dict, "Keyword arguments of the environment, passed to gymnasium.make_vec."
    )
    environments: int = option(
        16, "Environments that one actor steps as one vector.", unit="per actor", ge=1, le=4096
    )
    vectorization: Literal["auto", "sync", "async"] = option(
        "auto",
        "How an actor steps its environments: sync in one process, async in one process each, "
        "auto as gymnasium.make_vec chooses (the environment's own vectorised form if it has one).",
    )
    modules: list[ModuleName] = option(
        list,
        "Python modules that actors and learner import first, to register environment ids.",
        max_length=16,
    )


class Workload(Model):
    """The task. Exactly one kind is given."""

    gymnasium: Gymnasium | None = option(None, "A Gymnasium environment.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=(),
            cel="has(self.gymnasium)",
            holds=lambda workload: workload.gymnasium is not None,
            message="must have exactly one kind of workload; give gymnasium: {id: CartPole-v1}",
        ),
    )
