"""Which namespaces an operator serves: one that was deleted does not take the others along."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from asyncrl_operator.kube.client import Api, ApiError, Object
from asyncrl_operator.process import Unusable, _served, _until_rights_change


class Namespaces:
    """An API server that lists what is in these namespaces alone."""

    def __init__(self, *allowed: str | None) -> None:
        self.allowed = allowed
        self.asked = 0

    async def list(self, _kind: Any, namespace: str | None, _query: Any) -> Object:
        self.asked += 1
        if namespace not in self.allowed:
            raise ApiError(403, "Forbidden", "may not list")
        return {"items": [], "metadata": {}}


def served(api: Namespaces, *namespaces: str | None) -> tuple[str | None, ...]:
    return asyncio.run(_served(cast(Api, api), namespaces, asyncio.Event()))


def test_a_namespace_that_is_gone_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert served(Namespaces("vision", "robots"), "vision", "robots") == ("vision", "robots")
    assert served(Namespaces("vision"), "vision", "robots") == ("vision",)
    assert 'event=left_out namespace=robots error="Forbidden: may not list"' in caplog.text


@pytest.mark.parametrize(
    ("namespaces", "where"), [((None,), "all namespaces"), (("a", "b"), "a, b")]
)
def test_an_operator_that_may_serve_none_ends(
    namespaces: tuple[str | None, ...], where: str
) -> None:
    with pytest.raises(Unusable, match=f"may not list AsyncRLJobs in {where}; grant it"):
        served(Namespaces(), *namespaces)


@pytest.mark.parametrize(
    ("before", "after"),
    [(("vision",), ("vision", "robots")), (("vision", "robots"), ("vision",))],
    ids=["returned", "lost"],
)
def test_rights_that_change_are_a_reason_to_start_again(
    before: tuple[str, ...],
    after: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr("asyncrl_operator.process.RIGHTS_SECONDS", 0.0)

    async def story() -> None:
        api = Namespaces(*before)
        left_out = {"vision", "robots"} - set(before)
        work = _until_rights_change(cast(Api, api), before, [*left_out])
        task = asyncio.create_task(work)
        while api.asked < 5:
            await asyncio.sleep(0)
        assert not task.done()
        api.allowed = after
        await asyncio.wait_for(task, 5)

    asyncio.run(story())
    assert f"event=namespace_{request.node.callspec.id} namespace=robots" in caplog.text
