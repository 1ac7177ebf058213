"""Events: which reasons they have, of which kind, and that the page has all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from asyncrl_api.reasons import Reason
from asyncrl_api.status import ConditionStatus, ConditionType, Verdict
from asyncrl_operator.events_reference import PATH, events_markdown
from asyncrl_operator.plan.events import BESIDE, REASONS, event_beside, event_kind

ROOT = Path(__file__).parents[3]
OPERATOR = [
    *(ROOT / "operator" / "asyncrl_operator").rglob("*.py"),
    ROOT / "crds" / "asyncrl_api" / "conditions.py",
]
WORKER = (ROOT / "worker" / "asyncrl_worker").rglob("*.py")
RESTARTED = {Reason.PEER_UNAVAILABLE, Reason.REPLACED}
"""Last words of roles that end with 69 and 130: the kubelet restarts them, and no run fails."""


def named(paths: Iterator[Path] | list[Path]) -> set[Reason]:
    """Every `Reason.NAME` in the source."""
    return {
        Reason[node.attr]
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Reason"
    }


def told() -> set[Reason]:
    return {reason for reasons in REASONS.values() for reason in reasons} | set(BESIDE)


def test_the_committed_page_is_the_generated_one() -> None:
    assert PATH.read_text() == events_markdown(), "run python -m asyncrl_operator.events_reference"


def test_every_reason_that_the_operator_can_give_is_in_the_page() -> None:
    table = [path for path in OPERATOR if path.name == "events.py"]
    assert len(table) == 1
    elsewhere = named([path for path in OPERATOR if path not in table])
    assert len(elsewhere) > 20
    assert elsewhere <= told()
    assert {Reason(verdict) for verdict in get_args(Verdict)} <= told()


def test_the_last_words_of_roles_are_in_the_page() -> None:
    words = named(WORKER)
    assert len(words) > 15
    assert words - RESTARTED <= told()
    assert not RESTARTED & told()


def test_every_condition_that_is_set_is_in_the_table() -> None:
    conditions = {condition for condition, _ in REASONS}
    assert conditions == set(get_args(ConditionType)) - {"QuotaReserved"}, "nothing reserves quota"


@pytest.mark.parametrize(
    ("condition", "status", "reason", "kind"),
    [
        ("Accepted", "False", Reason.INVALID_SPEC, "Warning"),
        ("Running", "False", Reason.UNSCHEDULABLE, "Warning"),
        ("Running", "False", Reason.FINISHED, "Normal"),
        ("Running", "False", Reason.STARTING, "Normal"),
        ("Running", "True", Reason.ALL_ROLES_READY, "Normal"),
        ("Restarting", "True", Reason.LEARNER_LOST, "Warning"),
        ("Restarting", "False", Reason.RESUMED, "Normal"),
        ("Suspended", "True", Reason.SUSPENDED_BY_USER, "Normal"),
        ("Stable", "Unknown", Reason.STALE_REPORTS, "Normal"),
        ("Stable", "False", Reason.DEGRADED, "Warning"),
        ("Complete", "True", Reason.TARGET_RETURN_REACHED, "Normal"),
        ("Failed", "True", Reason.STALLED, "Warning"),
    ],
)
def test_what_is_wrong_is_a_warning(
    condition: ConditionType, status: ConditionStatus, reason: Reason, kind: str
) -> None:
    assert event_kind(condition, status, reason) == kind


def test_an_event_beside_the_conditions_is_one_of_the_table() -> None:
    assert event_beside(Reason.ACTOR_LOST, "actor-1: its pod is gone").kind == "Warning"
    with pytest.raises(KeyError):
        event_beside(Reason.VALID, "")
