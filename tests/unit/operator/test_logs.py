"""Log lines: one event each, with the job and the generation that it is about."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator

import pytest

from asyncrl_operator import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", stream)
    yield stream
    root.handlers, root.level = handlers, level


def lines(stream: io.StringIO) -> list[str]:
    """Without their times."""
    return [line.partition(" ")[2] for line in stream.getvalue().splitlines()]


def test_every_line_of_a_task_names_its_job(stream: io.StringIO) -> None:
    log = logging.getLogger("asyncrl.operator")

    async def work(name: str, generation: int | None) -> None:
        with logs.about(("team", name), generation):
            log.info("event=began")
            await asyncio.sleep(0)
            log.info('event=applied kind=%s error="%s"', "Job", "100 % wrong")
        log.info("event=idle")

    async def story() -> None:
        await asyncio.gather(work("a", 3), work("b", None))

    asyncio.run(story())
    assert sorted(lines(stream)) == [
        'INFO role=operator event=applied job=team/a generation=3 kind=Job error="100 % wrong"',
        'INFO role=operator event=applied job=team/b kind=Job error="100 % wrong"',
        "INFO role=operator event=began job=team/a generation=3",
        "INFO role=operator event=began job=team/b",
        "INFO role=operator event=idle",
        "INFO role=operator event=idle",
    ]


def test_lines_of_libraries_have_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp.client").warning('two\nlines with "quotes"')
    assert lines(stream) == [
        'WARNING role=operator event=library name=aiohttp.client message="two lines with '
        '\\"quotes\\""'
    ]


def test_what_kopf_says_of_every_event_is_left_out(stream: io.StringIO) -> None:
    logging.getLogger("kopf.objects").info("Handler succeeded.")
    assert lines(stream) == []
