"""The chart's alert rules ask for metrics, labels and conditions that the operator has."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from asyncrl_api.status import ConditionType, JobStatus
from asyncrl_operator.metrics import OperatorMetrics

ALERTS = Path(__file__).parents[3] / "charts" / "asyncrl" / "files" / "alerts.yaml"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())
SERIES = re.compile(r"(asyncrl_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)=~?"([^"]*)"')


def samples() -> dict[str, set[str]]:
    """The labels of every series of an operator that has seen one job."""
    metrics = OperatorMetrics()
    now = datetime.now(UTC)
    condition = {"type": "Running", "status": "True", "reason": "x", "lastTransitionTime": now}
    status = JobStatus.model_validate({"phase": "Running", "conditions": [condition]})
    metrics.observe(("team", "cartpole"), JobStatus(), status, 1.0)
    metrics.reconciliations.labels("error").inc()
    return {
        sample.name: set(sample.labels)
        for family in metrics.registry.collect()
        for sample in family.samples
    }


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    known = samples()
    asked = SERIES.findall(rule["expr"])
    assert asked
    for name, matchers in asked:
        assert name in known
        for label, value in MATCHER.findall(matchers):
            assert label in known[name]
            if label == "condition":
                assert set(value.split("|")) <= set(get_args(ConditionType))
    shown = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
    assert set(shown) <= known[asked[0][0]]


FROZEN = re.compile('condition="(Stable|AlignmentHealthy)"')
"""Conditions that a job keeps as they were at its end."""
GUARDS = (
    'unless on (namespace, name) (asyncrl_job_condition{condition=~"Complete|Failed"} == 1)',
    'and on (namespace, name) (asyncrl_job_condition{condition="Running"} == 1)',
)


def test_no_alert_is_for_what_a_job_was_at_its_end() -> None:
    concerned = [rule for rule in RULES if FROZEN.search(rule["expr"])]
    assert len(concerned) == 3
    for rule in concerned:
        assert rule["expr"].endswith(GUARDS), rule["alert"]


def test_every_alert_says_how_bad_and_what() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
