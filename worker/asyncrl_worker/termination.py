"""The termination message of a role: why it ended, or what it had reached, in one JSON object.

Kubernetes puts it into the pod's status (terminationMessagePath); on one machine the supervisor
names a file.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

TERMINATION_LOG_VARIABLE = "ASYNCRL_TERMINATION_LOG"
"""Environment variable: the file for the message where no kubelet has made one."""
DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")
LONGEST_TERMINATION_MESSAGE = 4096
"""Bytes; the kubelet cuts what is longer."""

log = logging.getLogger("asyncrl")


def end_with(role: str, index: int, reason: str, message: str, exit_code: int) -> int:
    """Log and write why a role failed; returns the exit code."""
    line = " ".join(message.split())
    log.error("event=failed reason=%s exit_code=%d message=%s", reason, exit_code, json.dumps(line))
    target = os.environ.get(TERMINATION_LOG_VARIABLE)
    path = Path(target) if target else DEFAULT_TERMINATION_LOG
    if target or path.exists():
        document = {"role": role, "index": index, "reason": reason, "message": line}
        _write(path, json.dumps(document))
    return exit_code


def leave_last_word(document: dict[str, Any]) -> None:
    """Leave JSON in the termination message of a pod, whose files go with it.

    On one machine the run folder has it all. What is longer than Kubernetes keeps is left out as a
    whole: half a document says nothing.
    """
    if os.environ.get(TERMINATION_LOG_VARIABLE) or not DEFAULT_TERMINATION_LOG.exists():
        return
    text = json.dumps(document)
    if len(text.encode()) > LONGEST_TERMINATION_MESSAGE:
        log.warning("event=termination_message_too_long bytes=%d", len(text.encode()))
        return
    _write(DEFAULT_TERMINATION_LOG, text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        log.error("event=termination_message_lost path=%s error=%s", path, error)
