"""What the chart makes for Prometheus: known to its operator, and understood by its parser."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import parts
from cluster.build import build
from cluster.control_plane import ControlPlane
from cluster.helm import Helm
from cluster.kubectl import Kubectl

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "asyncrl"
ENABLED = ("podMonitor.enabled=true", "prometheusRule.enabled=true")

Document = dict[str, Any]


def run(program: Path, *arguments: str | Path) -> str:
    """What a program prints. Raises AssertionError with what it says where it fails."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the definitions of the Prometheus operator and the namespace `ops`."""
    build(parts.MONITORING)
    with ControlPlane(tmp_path_factory.mktemp("monitored")) as running:
        kubectl = running.kubectl
        for name in parts.MONITORING.files:
            path = str(parts.MONITORING.program(name))
            kubectl("apply", "--server-side", "-f", path)
            kubectl("wait", "--for=condition=Established", "-f", path, "--timeout=60s")
        kubectl("create", "namespace", "ops")
        yield running


def rendered(helm: Path, *values: str) -> list[Document]:
    """The objects for the Prometheus operator."""
    version = ("--kube-version", parts.KUBERNETES)
    options = ("-n", "ops", *version, *settings(*ENABLED, *values))
    text = run(helm, "template", "asyncrl", CHART, *options)
    kinds = ("PodMonitor", "PrometheusRule")
    return [document for document in yaml.safe_load_all(text) if document["kind"] in kinds]


def by_name(documents: list[Document]) -> dict[tuple[str, str], Any]:
    return {(d["kind"], d["metadata"]["name"]): d["spec"] for d in documents}


def contains(stored: Any, written: Any) -> bool:
    """Whether everything that was written is stored; there may be defaults beside it."""
    if isinstance(written, dict):
        return isinstance(stored, dict) and all(
            key in stored and contains(stored[key], value) for key, value in written.items()
        )
    if isinstance(written, list):
        pairs = zip(stored, written, strict=True)
        return len(stored) == len(written) and all(contains(*pair) for pair in pairs)
    return bool(stored == written)


@pytest.mark.parametrize(
    "values",
    [(), ("watchNamespaces={team-a,team-b}", "podMonitor.labels.release=prometheus")],
)
def test_the_api_server_knows_every_field(
    values: tuple[str, ...], helm: Path, monitored: ControlPlane
) -> None:
    documents = rendered(helm, *values)
    assert len(documents) == 3
    said = monitored.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
        stdin=yaml.safe_dump_all(documents),
    )
    assert len(said.splitlines()) == len(documents)


def test_a_field_that_nobody_knows_would_be_refused(helm: Path, monitored: ControlPlane) -> None:
    documents = rendered(helm)
    documents[0]["spec"]["podMetricsEndpoints"][0]["honourLabels"] = True
    said = monitored.kubectl.refused(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
        stdin=yaml.safe_dump_all(documents),
    )
    assert "honourLabels" in said


def test_helm_installs_monitors_and_rules_and_takes_them_away(
    helm: Path, monitored: ControlPlane
) -> None:
    release = Helm(helm, monitored.kubeconfig, "ops")
    release("install", "asyncrl", str(CHART), *settings(*ENABLED))
    stored = by_name(installed(monitored.kubectl))
    written = by_name(rendered(helm))
    assert stored.keys() == written.keys()
    for name, spec in written.items():
        assert contains(stored[name], spec), json.dumps([stored[name], spec], indent=1)
    release("uninstall", "asyncrl", "--wait")
    assert installed(monitored.kubectl) == []


def installed(kubectl: Kubectl) -> list[Document]:
    found: list[Document] = kubectl.get("-n", "ops", "podmonitors,prometheusrules")["items"]
    return found


@pytest.fixture(scope="module")
def promtool() -> Path:
    """The program that reads rules as Prometheus does."""
    build(parts.PROMTOOL)
    return parts.PROMTOOL.program("promtool")


@pytest.fixture
def rules(helm: Path, tmp_path: Path) -> Path:
    """The rules of the chart as a file that Prometheus reads."""
    (rule,) = [d for d in rendered(helm) if d["kind"] == "PrometheusRule"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    return path


def test_prometheus_understands_every_alert(promtool: Path, rules: Path) -> None:
    said = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", rules)
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert f"SUCCESS: {len(alerts)} rules found" in said


def test_prometheus_would_refuse_a_wrong_expression(promtool: Path, rules: Path) -> None:
    text = rules.read_text().replace("absent(", "missing(", 1)
    rules.write_text(text)
    with pytest.raises(AssertionError, match="unknown function"):
        run(promtool, "check", "rules", rules)


LEADING = 'asyncrl_operator_leading{pod="a"}'
STANDING_BY = 'asyncrl_operator_leading{pod="b"}'
DEPTH = "asyncrl_operator_queue_depth"
ERRORS = 'asyncrl_operator_reconciliations_total{result="error"}'
FINE: dict[str, float] = {"Running": 1, "Stable": 1, "AlignmentHealthy": 1, "Failed": 0}
MINUTES = 50

Case = tuple[dict[str, float], dict[str, str], int, list[str]]
"""Conditions of a job, other series, a minute, and the alerts that fire then."""

CASES: dict[str, Case] = {
    "all is well": ({}, {}, 45, []),
    "no operator": ({}, {LEADING: "_", STANDING_BY: "_"}, 11, ["AsyncRLOperatorAbsent"]),
    "no operator for a moment": ({}, {LEADING: "_", STANDING_BY: "_"}, 9, []),
    "none that works": ({}, {LEADING: f"0+0x{MINUTES}"}, 11, ["AsyncRLOperatorAbsent"]),
    "errors": ({}, {ERRORS: f"0+1x{MINUTES}"}, 40, ["AsyncRLOperatorFailing"]),
    "an error now and then": ({}, {ERRORS: f"0+0.2x{MINUTES}"}, 40, []),
    "a long queue": ({}, {DEPTH: f"101+0x{MINUTES}"}, 16, ["AsyncRLOperatorBehind"]),
    "failed": ({"Running": 0, "Failed": 1}, {}, 45, ["AsyncRLJobFailed"]),
    "degraded": ({"Stable": 0}, {}, 6, ["AsyncRLJobUnstable"]),
    "aligned": ({"AlignmentHealthy": 0}, {}, 16, ["AsyncRLJobAligned"]),
    "silent": ({"Stable": float("nan")}, {}, 16, ["AsyncRLJobSilent"]),
    "silent for a moment": ({"Stable": float("nan")}, {}, 14, []),
    "not running yet": ({"Running": 0, "Stable": float("nan")}, {}, 29, []),
    "not running": ({"Running": 0, "Stable": float("nan")}, {}, 31, ["AsyncRLJobWaiting"]),
    "suspended": ({"Running": 0, "Suspended": 1}, {}, 45, []),
    "complete": ({"Running": 0, "Complete": 1}, {}, 45, []),
    "complete, and silent at its end": (
        {"Running": 0, "Complete": 1, "Stable": float("nan")},
        {},
        45,
        [],
    ),
    "complete, and degraded and aligned at its end": (
        {"Running": 0, "Complete": 1, "Stable": 0, "AlignmentHealthy": 0},
        {},
        45,
        [],
    ),
    "failed, and degraded and aligned at its end": (
        {"Running": 0, "Failed": 1, "Stable": 0, "AlignmentHealthy": 0},
        {},
        45,
        ["AsyncRLJobFailed"],
    ),
    "aligned, and an earlier suspension": (
        {"AlignmentHealthy": 0, "Suspended": 0, "Complete": 0},
        {},
        45,
        ["AsyncRLJobAligned"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_alerts_fire_where_they_should(
    name: str, promtool: Path, rules: Path, tmp_path: Path
) -> None:
    conditions, others, minute, alerts = CASES[name]
    zeros, ones = f"0+0x{MINUTES}", f"1+0x{MINUTES}"
    series = {DEPTH: zeros, LEADING: ones, STANDING_BY: zeros} | others
    for condition, value in (FINE | conditions).items():
        labels = f'namespace="team",name="job",condition="{condition}"'
        number = "NaN" if value != value else f"{value:g}"
        series[f"asyncrl_job_condition{{{labels}}}"] = " ".join([number] * MINUTES)
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts]
    firing = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": expected,
    }
    inputs = [{"series": key, "values": values} for key, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [firing]}
    document = {"rule_files": [rules.name], "evaluation_interval": "1m", "tests": [test]}
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(document))
    run(promtool, "test", "rules", path)
