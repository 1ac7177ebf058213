"""Log lines: one event each as key=value, with the job and the generation that it is about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from asyncrl_operator.workqueue import Key

LAYOUT = "%(asctime)s.%(msecs)03d %(levelname)s role=operator %(message)s"
_subject: ContextVar[str] = ContextVar("subject", default="")


@contextmanager
def about(key: Key, generation: int | None) -> Iterator[None]:
    """What is logged inside, in this task, is about this job."""
    namespace, name = key
    known = "" if generation is None else f" generation={generation}"
    token = _subject.set(f" job={namespace}/{name}{known}")
    try:
        yield
    finally:
        _subject.reset(token)


class KeyValue(logging.Filter):
    """Names the job, and brings lines of libraries into the form of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; none is left out."""
        message = record.getMessage()
        if not record.name.startswith("asyncrl"):
            line = json.dumps(" ".join(message.split()))
            message = f"event=library name={record.name} message={line}"
        event, space, rest = message.partition(" ")
        record.msg, record.args = f"{event}{_subject.get()}{space}{rest}", ()
        return True


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Log to this stream; of kopf its warnings."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(LAYOUT, datefmt="%Y-%m-%dT%H:%M:%S"))
    handler.addFilter(KeyValue())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
