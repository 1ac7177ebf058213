"""Tickets that came to nothing, for the answer to a fragment that comes all the same."""

from __future__ import annotations

from collections import OrderedDict

from asyncrl_worker.staleness import DropReason

REMEMBERED = 1024
"""Tickets without a fragment whose reason is remembered, for a late fragment's answer."""


class VoidTickets:
    """Tickets that are counted as dropped although a fragment may still come; bounded."""

    def __init__(self) -> None:
        self._reasons: OrderedDict[tuple[int, int], DropReason] = OrderedDict()  # actor, ticket

    def remember(self, actor: int, ticket: int, reason: DropReason) -> None:
        """The ticket of this actor index is void."""
        self._reasons[actor, ticket] = reason
        if len(self._reasons) > REMEMBERED:
            self._reasons.popitem(last=False)

    def forget(self, actor: int, ticket: int) -> DropReason | None:
        """Why the ticket was void; None where it was not, or where that is forgotten."""
        return self._reasons.pop((actor, ticket), None)
