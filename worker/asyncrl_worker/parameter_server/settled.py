"""Judging fragments against their tickets, and remembering the tickets that came to nothing."""

from __future__ import annotations

from collections import OrderedDict

from asyncrl_worker.parameter_server.schedule import Order
from asyncrl_worker.parameter_server.validation import Arrival
from asyncrl_worker.staleness import DropReason

SETTLED_LIMIT = 1024
"""Tickets without a fragment whose reason is remembered, for a late fragment's answer."""


class SettledTickets:
    """Tickets that are counted as dropped although a fragment may still come; bounded."""

    def __init__(self) -> None:
        self._reasons: OrderedDict[tuple[int, int], DropReason] = OrderedDict()  # actor, ticket

    def remember(self, actor: int, ticket: int, reason: DropReason) -> None:
        """The ticket of this actor index is void."""
        self._reasons[actor, ticket] = reason
        if len(self._reasons) > SETTLED_LIMIT:
            self._reasons.popitem(last=False)

    def forget(self, actor: int, ticket: int) -> DropReason | None:
        """Why the ticket was void; None where it was not, or where that is forgotten."""
        return self._reasons.pop((actor, ticket), None)


def wrong_version(order: Order, fragment: Arrival, newest: int | None) -> str:
    """What is wrong with the policy versions of a fragment; empty where nothing is.

    `newest`: the version that is published.
    """
    if order.exact and not fragment.oldest == fragment.newest == order.version:
        return (
            f"policy_versions: {fragment.oldest}..{fragment.newest}, the ticket is for "
            f"exactly {order.version}"
        )
    if fragment.oldest < order.version:
        return f"policy_versions: {fragment.oldest} is older than the ticket's {order.version}"
    if newest is None or fragment.newest > newest:
        return f"policy_versions: {fragment.newest} does not exist, the newest is {newest}"
    return ""
