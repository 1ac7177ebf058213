"""report.html: complete, safe and small for any run, also an empty or broken one."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from asyncrl.report import write_report
from asyncrl_worker.telemetry import MetricsFile

VOID = {"meta"}

MANIFEST = """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: cartpole}
spec:
  seed: 3
  workload: {gymnasium: {id: CartPole-v1, environments: 32}}
  algorithm: {name: appo, clip: 0.4}
  alignment: {mode: control}
  staleness: {max: 4, inject: null}
  stopping: {targetReturn: 475}
  stability: {thresholds: {kl: {watch: 0.05, degraded: 0.1}}}
  actors:
    replicas: 2
    env: [{name: API_TOKEN, value: hunter2}, {name: LEVEL, value: debug}]
"""

STATUS: dict[str, Any] = {
    "phase": "Complete",
    "reason": "TargetReturnReached",
    "conditions": [
        {
            "type": "Complete",
            "status": "True",
            "reason": "TargetReturnReached",
            "message": "stopping.targetReturn is reached.",
            "lastTransitionTime": "2026-11-23T16:44:12Z",
        }
    ],
    "roles": [{"name": "actors", "desired": 2, "ready": 2, "restarts": 1, "disruptions": 0}],
    "ledger": {"produced": 10, "trained": 8, "dropped": {"ActorLost": 1}, "queued": 1},
}


class Page(HTMLParser):
    """The page as a browser would see it: tags balanced, text, attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def curve(self, name: str) -> list[str]:
        """The paths of the curves with this class, in order."""
        return [
            attrs["d"] or ""
            for tag, attrs in self.tags
            if tag == "path" and name in (attrs.get("class") or "").split()
        ]


def make_run(folder: Path, count: int = 60, **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.yaml").write_text(MANIFEST)
    (folder / "status.json").write_text(json.dumps(STATUS))
    with MetricsFile(folder / "metrics.jsonl", full_rows=10**9) as metrics:
        for update in range(1, count + 1):
            row = {
                "time": update * 0.5,
                "update": update,
                "policyVersion": update,
                "environmentSteps": update * 1000,
                "episodeReturn": 5.0 * update,
                "evaluationReturn": None if update < 25 else float(update // 25 * 100),
                "throughput": 2000.0,
                "cosine": math.sin(update),
                "smoothed": 0.1,
                "regime": "Skip" if update == 40 else "Pass",
                "low": 0.2,
                "high": 0.5,
                "kl": 0.01,
                "maxLogRatio": 0.5,
                "effectiveSampleSize": 0.9,
                "clippedFraction": 0.1,
                "entropyFraction": 0.5,
                "gradientNorm": 0.1,
                "valueLoss": 1.0,
                "stalenessMean": 2.5,
                "stalenessMax": 4.0,
                "verdict": "Watch" if 30 <= update < 45 else "Healthy",
                "reasons": ["HighKL"] if 30 <= update < 45 else [],
            }
            for key, value in columns.items():
                row[key] = value(update) if callable(value) else value
            metrics.write({k: v for k, v in row.items() if v is not ...})
    return folder


def test_a_run_is_shown_with_its_numbers_plots_and_tables(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path))
    assert path == tmp_path / "report.html"
    page = Page(path)
    for words in (
        "cartpole",
        "Complete",
        "CartPole-v1 · appo · 2 actors × 32 environments · staleness at most 4",
        "best 200 · target 475",
        "60k",
        "30.0s",
        "healthy in 75% of the updates",
        "target 475",
        "high KL",
        "2026-11-23 16:44:12",
        "dropped: actor lost",
        "replicas",
    ):
        assert words in page.text, words
    assert sum(tag == "svg" for tag, _ in page.tags) == 11
    assert "Not measured in this run." not in page.text
    assert len(page.curve("rug")) == 1
    assert page.curve("dots")[0].count("M") == 2, "one dot for each of two evaluations"


def test_the_page_asks_nothing_of_any_server(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    assert not re.search(r"https?://|//[a-z]|@import|url\(", page.source)
    assert not [attrs for _, attrs in page.tags if "src" in attrs or "href" in attrs]
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_the_values_under_the_pointer_are_those_of_the_run(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    data = json.loads(page.scripts[0])
    columns = data["columns"]
    assert data["label"] == "environment steps"
    assert columns["x"][9] == 10_000
    assert columns["update"] == list(range(1, 61))
    assert columns["episodeReturn"][:3] == [5.0, 10.0, 15.0]
    assert columns["verdict"][29] == "Watch"
    keys = {k for _, a in page.tags if "data-keys" in a for k in (a["data-keys"] or "").split()}
    assert keys - {"verdict"} <= set(data["names"])
    assert {len(column) for column in columns.values()} == {60}


def test_everything_that_is_not_ours_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    make_run(tmp_path, verdict="Watch", reasons=[evil])
    (tmp_path / "manifest.yaml").write_text(
        json.dumps({"metadata": {"name": evil}, "spec": {evil: evil, "algorithm": {"name": evil}}})
    )
    condition = dict.fromkeys(("type", "status", "reason", "message", "lastTransitionTime"), evil)
    status = {
        "phase": evil,
        "reason": evil,
        "message": evil,
        "conditions": [condition],
        "roles": [dict.fromkeys(("name", "desired", "ready", "restarts"), evil)],
        "ledger": {"produced": evil, "dropped": {evil: 1}},
    }
    (tmp_path / "status.json").write_text(json.dumps(status))
    page = Page(write_report(tmp_path))
    assert "<script>alert" not in page.source
    assert evil in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == 2


def test_values_of_variables_named_like_secrets_are_hidden(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    assert "hunter2" not in page.source
    assert "debug" in page.text


def test_a_long_run_stays_small_and_keeps_the_spike_of_a_single_update(tmp_path: Path) -> None:
    count = 20_000  # a page grows with its bins, which are full by far
    spike = 12_361
    make_run(
        tmp_path,
        count,
        maxLogRatio=lambda update: 50.0 if update == spike else 0.5 + 0.1 * math.sin(update),
        verdict=lambda update: "Degraded" if update == spike else "Healthy",
        cosine=lambda update: math.sin(update * update),
    )
    path = write_report(tmp_path)
    assert path.stat().st_size < 1_500_000
    page = Page(path)
    ratios = page.source.split("Largest log importance ratio</h3>")[1].split("</figure>")[0]
    raw = re.search(r'class="curve thin purple" d="([^"]*)"', ratios)
    assert raw is not None
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) (\d+)", raw[1])]
    top = min(points, key=lambda point: point[1])
    assert top[0] == pytest.approx(1000 * spike / count, abs=1)
    assert sorted(y for _, y in points)[1] > top[1] + 500
    assert "Degraded" in json.loads(page.scripts[0])["columns"]["verdict"]


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    make_run(tmp_path, throughput=lambda update: None if 20 <= update < 30 else 2000.0)
    page = Page(write_report(tmp_path))
    figure = page.source.split("Throughput</h3>")[1].split("</figure>")[0]
    raw = re.search(r'class="curve thin purple" d="([^"]*)"', figure)
    assert raw is not None
    assert raw[1].count("M") == 2


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    broken = {"update": 61, "kl": "NaN", "verdict": ["Watch"], "reasons": "x", "time": True}
    lines += [json.dumps(broken), '{"update": 62, "kl": NaN, "cosine": Infinity, "regime": {}}']
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page = Page(write_report(folder))
    assert "nan" not in page.source.lower().replace("tenant", "")
    assert "updates</div>" in page.source, "without steps everywhere the axis counts updates"


def test_a_column_that_was_never_measured_says_so(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path, cosine=..., smoothed=..., low=..., high=...)))
    assert page.text.count("Not measured in this run.") == 1


def test_an_empty_run_folder_says_that_nothing_was_trained(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert "Nothing was trained yet" in page.text
    assert not [tag for tag, _ in page.tags if tag == "svg"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_of_one_update_is_shown(tmp_path: Path, count: int) -> None:
    page = Page(write_report(make_run(tmp_path, count)))
    assert page.curve("curve")


def test_a_running_and_a_failed_run_say_so(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "status.json").write_text(json.dumps({"phase": "Running"}))
    assert "This run is not complete" in Page(write_report(tmp_path)).text
    failed = {"phase": "Failed", "reason": "StabilityFailed", "message": "Diverged: high KL"}
    (tmp_path / "status.json").write_text(json.dumps(failed))
    assert "StabilityFailed: Diverged: high KL" in Page(write_report(tmp_path)).text


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "a: [", "\x00"])
def test_broken_manifest_and_status_do_not_stop_the_report(tmp_path: Path, text: str) -> None:
    make_run(tmp_path)
    (tmp_path / "manifest.yaml").write_text(text)
    (tmp_path / "status.json").write_text(text)
    page = Page(write_report(tmp_path))
    assert "The manifest could not be read." in page.text
    assert "There is no status of this run" in page.text


def test_many_verdict_changes_are_listed_in_part(tmp_path: Path) -> None:
    make_run(tmp_path, 400, verdict=lambda update: "Watch" if update % 2 else "Healthy")
    page = Page(write_report(tmp_path))
    assert "… 360 more changes …" in page.text


def test_a_report_replaces_an_older_one(tmp_path: Path) -> None:
    make_run(tmp_path, 10)
    before = write_report(tmp_path).read_text()
    make_run(tmp_path, 20)
    after = write_report(tmp_path).read_text()
    assert "from 10 recorded updates" in before
    assert "from 20 recorded updates" in after
    assert {path.name for path in tmp_path.iterdir()} == {
        "manifest.yaml",
        "metrics.jsonl",
        "report.html",
        "status.json",
    }


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such run folder: '.*/nothing'"):
        write_report(tmp_path / "nothing")
