"""What is wrong with the nodes of pods that ended, where the operator may look at nodes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable

from asyncrl_operator.kube.client import NODE, Api, ApiError, Object

FRESH_SECONDS = 15.0

log = logging.getLogger("asyncrl.operator")


class Nodes:
    """Asks for a node when one of its pods ended, and remembers the answer for a moment."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, tuple[float, str]] = {}
        self._allowed = True

    async def problems(self, names: Iterable[str]) -> dict[str, str]:
        """One line for each of these nodes that is ill."""
        found = {}
        for name in sorted(set(names)):
            line = await self._problem(name)
            if line:
                found[name] = line
        return found

    async def _problem(self, name: str) -> str:
        now = time.monotonic()
        known = self._known.get(name)
        if known is not None and now - known[0] < FRESH_SECONDS:
            return known[1]
        if not self._allowed:
            return ""
        self._known = {n: k for n, k in self._known.items() if now - k[0] < FRESH_SECONDS}
        try:
            node = await self._api.get(NODE, None, name)
        except ApiError as error:
            if error.status == 403:
                # An operator of single namespaces has no right to see nodes.
                self._allowed = False
                log.info('event=nodes_unseen error="%s"', error)
            return ""
        line = "is gone" if node is None else describe(node)
        self._known[name] = (now, line)
        return line


WELL = ("Ready", "Healthy")
"""Ends of the names of conditions that are good."""
ILL = re.compile(
    "Pressure|Unavailable|Unhealthy|NotReady|Problem|Error|Fail|Fault|Deadlock|Readonly|ReadOnly"
    "|Corrupt|Frequent|Lost|Missing|Inactive|Flapping|Offline|Degraded|Hang|Hung|Exceeded|Scheduled"
    "|X[Ii][Dd]"
)
"""What the name of a condition says that is a complaint: Kubernetes' own, those of the node problem
detector and of the clouds. Others tell what a node is, as EtcdIsVoter does on K3s."""


def describe(node: Object) -> str:
    """What its conditions complain of; empty for a node that is well."""
    complaints = []
    for condition in (node.get("status") or {}).get("conditions") or []:
        ill = ILL.search(condition["type"]) is not None
        good = not ill and condition["type"].endswith(WELL)
        if (ill or good) and condition["status"] != ("True" if good else "False"):
            kind = f"Not{condition['type']}" if good else condition["type"]
            detail = condition.get("message") or condition.get("reason") or ""
            complaints.append(f"{kind}: {detail}".rstrip(": "))
    return "; ".join(complaints)
