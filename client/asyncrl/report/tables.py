"""The tables of a run: verdict changes, conditions, processes and data, and its manifest."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import yaml

from asyncrl.numbers import duration
from asyncrl.report.run import VERDICTS, Row, RunRecord, number

LISTED_EVENTS = 40
"""Verdict changes listed at most; of more, the first and the last."""

SECRET = re.compile(r"token|secret|passw|key|credential", re.IGNORECASE)
"""Names of environment variables whose values a page made for showing around must not carry."""


def events_section(run: RunRecord) -> str:
    """Changes of the verdict, with what they rested on."""
    changes: list[Row] = []
    before = "Healthy"
    for row, verdict in zip(run.rows, run.verdicts, strict=True):
        if verdict is not None and verdict != before:
            changes.append(row)
            before = verdict
    if not changes:
        return ""
    half = LISTED_EVENTS // 2
    left_out = max(0, len(changes) - LISTED_EVENTS)
    shown = changes if not left_out else [*changes[:half], *changes[-half:]]
    lines = []
    for position, row in enumerate(shown):
        if left_out and position == half:
            lines.append(f'<tr><td colspan="4">… {left_out} more changes …</td></tr>')
        reasons = row.get("reasons")
        why = ", ".join(map(words, reasons)) if isinstance(reasons, list) else ""
        lines.append(
            f'<tr><td class="number">{_time(row)}</td>'
            f'<td class="number">{row["update"]:,}</td>'
            f"<td>{badge(row['verdict'], VERDICTS[row['verdict']][1])}</td>"
            f'<td class="words">{escape(why) or "–"}</td></tr>'
        )
    return (
        '<h2>Events</h2><div class="panel events"><table><thead><tr><th class="number">Time</th>'
        '<th class="number">Update</th><th>Verdict</th><th>Because of</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def conditions_section(run: RunRecord) -> str:
    """The conditions of the status."""
    conditions = run.status.get("conditions")
    rows = [each for each in conditions if isinstance(each, dict)] if conditions else []
    if not rows:
        return ""
    lines = "".join(
        f"<tr><th>{_text(row, 'type')}</th><td>{_text(row, 'status')}</td>"
        f'<td>{_text(row, "reason")}</td><td class="words">{_text(row, "message")}</td>'
        f'<td class="number">{_since(row)}</td></tr>'
        for row in rows
    )
    return (
        '<h2>Conditions</h2><div class="panel"><table><thead><tr><th>Condition</th><th>Status</th>'
        '<th>Reason</th><th>Message</th><th class="number">Since (UTC)</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def processes_section(run: RunRecord) -> str:
    """Roles with their restarts, and where every fragment went."""
    parts = []
    roles = run.status.get("roles")
    known = [each for each in roles if isinstance(each, dict)] if isinstance(roles, list) else []
    if known:
        lines = "".join(
            f"<tr><th>{_text(role, 'name')}</th>"
            + "".join(
                f'<td class="number">{_text(role, key)}</td>'
                for key in ("desired", "ready", "restarts", "disruptions")
            )
            + "</tr>"
            for role in known
        )
        parts.append(
            '<div class="panel"><table><thead><tr><th>Role</th><th class="number">Desired</th>'
            '<th class="number">Ready</th><th class="number">Restarts</th>'
            f'<th class="number">Disruptions</th></tr></thead><tbody>{lines}</tbody></table></div>'
        )
    ledger = run.status.get("ledger")
    if isinstance(ledger, dict):
        dropped = ledger.get("dropped")
        counts = [("produced", ledger.get("produced")), ("trained", ledger.get("trained"))]
        if isinstance(dropped, dict):
            counts += [(f"dropped: {words(reason)}", count) for reason, count in dropped.items()]
        counts += [("queued", ledger.get("queued")), ("in flight", ledger.get("inFlight"))]
        lines = "".join(
            f'<tr><th>{escape(name)}</th><td class="number">{_count(count)}</td></tr>'
            for name, count in counts
        )
        parts.append(
            '<div class="panel"><table><thead><tr><th>Fragments</th><th class="number">Count</th>'
            f"</tr></thead><tbody>{lines}</tbody></table></div>"
        )
    if not parts:
        return ""
    return f'<h2>Processes and data</h2><div class="grid2 top">{"".join(parts)}</div>'


def manifest_section(run: RunRecord) -> str:
    """The resolved manifest, folded away."""
    if not run.manifest:
        return ""
    text = escape(yaml.safe_dump(_masked(run.manifest), sort_keys=False, allow_unicode=True))
    text = re.sub(r"(?m)^(\s*(?:- )?)([\w./-]+):(?=\s|$)", r"\1<b>\2</b>:", text)
    return (
        "<h2>Manifest</h2><details><summary>The resolved manifest, every default written out"
        f"</summary><pre>{text}</pre></details>"
    )


def _masked(value: Any) -> Any:
    """The manifest without the values of environment variables that are named like secrets."""
    if isinstance(value, dict):
        if "value" in value and SECRET.search(str(value.get("name", ""))):
            return {**value, "value": "(hidden)"}
        return {key: _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


def badge(word: object, state: str) -> str:
    """A state with its coloured dot."""
    return f'<span class="badge {state}">{escape(str(word))}</span>'


def _time(row: Row) -> str:
    seconds = number(row.get("time"))
    return "–" if seconds is None else duration(seconds)


def _since(row: Row) -> str:
    return _text(row, "lastTransitionTime").replace("T", " ").rstrip("Z")


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if value is None else escape(str(value))


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def words(reason: object) -> str:
    """CamelCase as words: HighKL is `high KL`."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", str(reason))
    return " ".join(part if len(part) > 1 and part.isupper() else part.lower() for part in parts)
