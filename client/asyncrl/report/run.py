"""What a run left behind in its folder, read leniently: a run may be killed at any point."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import yaml

from asyncrl.report.plots import Value
from asyncrl.run_folder import RunFolder, read_json_object
from asyncrl_worker.telemetry import read_rows

Row = dict[str, Any]

VERDICTS = {
    "Healthy": (0.25, "good"),
    "Watch": (0.5, "watch"),
    "Degraded": (0.75, "bad"),
    "Diverged": (1.0, "dead"),
}
"""Height in the timeline and style of each verdict, from good to bad."""


@dataclass(frozen=True)
class RunRecord:
    """Manifest, status and metrics; empty where nothing is there yet."""

    name: str
    manifest: Row
    status: Row
    rows: list[Row]
    _columns: dict[str, list[Value]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, folder: RunFolder) -> RunRecord:
        """Whatever of the three can be read."""
        try:
            manifest = yaml.safe_load(folder.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            manifest = None
        manifest = manifest if isinstance(manifest, dict) else {}
        name = at(manifest, "metadata", "name") or folder.path.resolve().name
        status = read_json_object(folder.status) or {}
        return cls(str(name), manifest, status, read_rows(folder.metrics))

    def spec(self, *path: str) -> Any:
        """A field of the manifest's spec, None where it is not set."""
        return at(self.manifest, "spec", *path)

    def column(self, key: str) -> list[Value]:
        """A column of the metrics, None where a row has no finite number."""
        if key not in self._columns:
            self._columns[key] = [number(row.get(key)) for row in self.rows]
        return self._columns[key]

    def words(self, key: str) -> list[str | None]:
        """A column of names, None where a row has none."""
        return [value if isinstance(value := row.get(key), str) else None for row in self.rows]

    @property
    def verdicts(self) -> list[str | None]:
        """The verdict of every row, None for a word that is none."""
        return [word if word in VERDICTS else None for word in self.words("verdict")]

    def last(self, key: str) -> float | None:
        """The newest value of a column."""
        return next((v for v in reversed(self.column(key)) if v is not None), None)

    @property
    def evaluations(self) -> list[Value]:
        """The return of an evaluation in the row that first knew of it: rows repeat it."""
        found: list[Value] = []
        before: object = None
        for row, value in zip(self.rows, self.column("evaluationReturn"), strict=True):
            # Of two evaluations with the same return only the version tells.
            mark = (row.get("evaluationVersion"), value)
            found.append(value if mark != before else None)
            before = mark
        return found

    @property
    def staleness_bound(self) -> float | None:
        """The configured bound, or the exact lag of an experiment, in versions."""
        inject = number(self.spec("staleness", "inject"))
        return inject if inject is not None else number(self.spec("staleness", "max"))


def number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def at(document: Any, *path: str) -> Any:
    """A value inside nested mappings, None where the path ends early."""
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document
