"""The queue of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from asyncrl_operator.workqueue import WorkQueue

A, B = ("default", "a"), ("default", "b")


def run(story: Callable[[WorkQueue], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await story(WorkQueue(asyncio.get_running_loop().time))

    asyncio.run(bounded())


def test_equal_keys_are_one() -> None:
    async def story(queue: WorkQueue) -> None:
        for key in (A, B, A, A):
            queue.add(key)
        assert (await queue.get(), await queue.get(), len(queue)) == (A, B, 0)

    run(story)


def test_a_key_that_is_added_while_it_is_worked_on_comes_again_afterwards() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        assert await queue.get() == A
        queue.add(A)
        queue.add(A)
        assert len(queue) == 0, "one worker at a time"
        queue.done(A)
        assert await queue.get() == A
        queue.done(A)
        assert len(queue) == 0

    run(story)


def test_the_earlier_of_two_looks_counts() -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add_later(A, 3600)
        queue.add_later(A, 0.01)
        queue.add_later(A, 1800)
        assert await queue.get() == A

    run(story)


def test_the_back_off_doubles_is_capped_and_ends_with_a_success() -> None:
    async def story(queue: WorkQueue) -> None:
        delays = [queue.retry(A) for _ in range(9)]
        assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
        assert delays[-1] == 60.0
        queue.succeeded(A)
        assert queue.retry(A) == 0.5

    run(story)


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_what_is_due_already_is_due_now(seconds: float) -> None:
    async def story(queue: WorkQueue) -> None:
        queue.add_later(A, seconds)
        assert await queue.get() == A

    run(story)
