"""What a run leaves behind to be plotted: metrics.jsonl, and the same numbers for TensorBoard.

metrics.jsonl has one JSON object per line with the keys of `COLUMNS`; null is absent or not finite.
The first 20,000 updates are written one by one and later ones ever more thinly, so that the file
grows with the logarithm of the run's length: 100,000 rows, about 70 MB, after 5 million updates.
Updates that change the verdict or bring an evaluation are always written.

Files are appended to across restarts of the learner. A restart continues at its checkpoint, so its
first rows repeat updates already in the file: the later row is the true one, and `read_rows`
returns only those.

Every write error is an OSError that names the file; nothing is dropped silently.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["COLUMNS", "MetricsFile", "Row", "Telemetry", "TensorBoardFile", "read_rows"]

Row = Mapping[str, "float | int | str | Sequence[str] | None"]

COLUMNS = {
    "time": "seconds of training since the start, those before a restart included",
    "update": "batches consumed",
    "policyVersion": "versions made",
    "environmentSteps": "environment steps trained",
    "episodeReturn": "mean return of the newest training episodes",
    "evaluationReturn": "mean return of the newest evaluation; repeated until the next one",
    "evaluationVersion": "the policy version it evaluated",
    "throughput": "environment steps trained per second, recently",
    "cosine": "of this and the previous policy gradient",
    "smoothed": "moving average of the cosine",
    "relative": "cosine over the one that the halves of a batch predict",
    "regime": "Pass, Project or Skip",
    "low": "cosine up to which an update passes",
    "high": "cosine above which an update is skipped",
    "scale": "length of the applied gradient over the measured one, 0..1",
    "gradientNorm": "of the policy gradient before clipping",
    "kl": "mean KL divergence of behaviour and trained policy, nats",
    "maxLogRatio": "largest absolute log importance ratio",
    "effectiveSampleSize": "share of the batch, 0..1",
    "clippedFraction": "share of samples beyond the clip, 0..1",
    "entropy": "of the policy, nats",
    "entropyFraction": "of the largest possible, 0..1; null for continuous actions",
    "policyLoss": "mean over the batch",
    "valueLoss": "mean over the batch",
    "stalenessMean": "policy versions",
    "stalenessMax": "policy versions",
    "stalenessBound": "bound in effect, policy versions",
    "verdict": "Healthy, Watch, Degraded or Diverged",
    "reasons": "what the verdict rests on",
    "score": "of this update alone, 0..3, before hysteresis",
    "learningRate": "of the policy in this step",
    "momentum": "Adam's beta1 of the policy in this step",
    "klCoefficient": "of the KL feedback in this step",
    "queued": "fragments received and not yet consumed",
    "inFlight": "fragments admitted and not yet received",
    "dropped": "fragments dropped so far, all reasons together",
}
"""Keys of a row and what they mean. A row may leave any out except time and update."""

FULL_ROWS = 20_000
"""Updates that are written without thinning."""

FLUSH_SECONDS = 1.0
"""Age at which buffered rows reach the file, if updates keep coming."""

TENSORBOARD_SECONDS = 1.0
"""Least time between two TensorBoard events; it shows 1,000 points per curve anyway."""

TAIL_BYTES = 1 << 16
"""Longest torn last line that is repaired."""

SIGNIFICANT_DIGITS = 6


def to_json(row: Row) -> str:
    """One line without its end, floats to six digits. ValueError for a key not in COLUMNS."""
    if not row.keys() <= COLUMNS.keys():
        unknown = ", ".join(sorted(row.keys() - COLUMNS.keys()))
        raise ValueError(f"metrics row: unknown columns {unknown}; add them to COLUMNS")
    plain = {key: _plain(value) for key, value in row.items()}
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    return list(value) if isinstance(value, tuple) else value


def stride(update: int, full_rows: int = FULL_ROWS) -> int:
    """Every how many updates a row is written: 1, then 2, 4, 8.. as the run doubles its length."""
    return 1 << max(0, (update // full_rows).bit_length())


class Telemetry:
    """Both files of a run: `directory`/metrics.jsonl and `directory`/tensorboard/events.*."""

    def __init__(self, directory: Path) -> None:
        with ExitStack() as stack:
            self._metrics = stack.enter_context(MetricsFile(directory / "metrics.jsonl"))
            self._events = stack.enter_context(TensorBoardFile(directory / "tensorboard"))
            self._stack = stack.pop_all()

    def write(self, row: Row) -> None:
        """Record one update. Raises OSError, with the file's name, when that fails."""
        self._metrics.write(row)
        self._events.write(row)

    def flush(self) -> None:
        """Hand what is buffered to the operating system; OSError, with the file's name, if not."""
        self._metrics.flush()

    def close(self) -> None:
        """Write what is buffered and close both files, also when one of them fails."""
        self._stack.close()

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MetricsFile:
    """Appends rows to metrics.jsonl. A last line torn by a kill is cut off when it is opened."""

    def __init__(
        self,
        path: Path,
        *,
        full_rows: int = FULL_ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._full_rows = full_rows
        self._clock = clock
        self._seen: tuple[object, ...] = ()
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b")
            _cut_torn_line(self._stream)
        self._flushed = clock()

    def write(self, row: Row) -> bool:
        """False if the row was thinned out."""
        line = to_json(row)
        seen = tuple(row.get(key) for key in ("verdict", "evaluationReturn", "evaluationVersion"))
        notable, self._seen = seen != self._seen, seen
        update = row["update"]
        assert isinstance(update, int)
        if not notable and update % stride(update, self._full_rows) != 0:
            return False
        with _naming(self.path):
            self._stream.write(line.encode() + b"\n")
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self.flush()
        return True

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        with _naming(self.path):
            self._stream.flush()
        self._flushed = self._clock()

    def close(self) -> None:
        """Flush to the disk and close; the file is closed even when that raises."""
        with _naming(self.path):
            try:
                self._stream.flush()
                os.fsync(self._stream.fileno())
            finally:
                self._stream.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, by rising update; [] when there is no file.

    Rows that a restart went back before are left out, lines that are no JSON object (a torn last
    one) too.
    """
    rows: list[dict[str, Any]] = []
    for row in _objects(path):
        update = row.get("update")
        if not isinstance(update, int):
            continue
        while rows and rows[-1]["update"] >= update:
            rows.pop()
        rows.append(row)
    return rows


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


_TAGS = {
    "training": "episodeReturn evaluationReturn throughput environmentSteps policyLoss valueLoss "
    "learningRate momentum",
    "alignment": "cosine smoothed relative low high scale",
    "stability": "kl maxLogRatio effectiveSampleSize clippedFraction entropy gradientNorm "
    "klCoefficient score",
    "staleness": "stalenessMean stalenessMax stalenessBound",
    "ledger": "queued inFlight dropped",
}
"""TensorBoard groups; a tag is group/column, the step is the update."""


class TensorBoardFile:
    """Scalars as a TensorBoard event file in `directory`, at most one event per second.

    TensorBoard's own record writer on a file of ours, on the caller's thread: its EventFileWriter
    tells of a full disk on its background thread only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float] = time.time,
        interval: float = TENSORBOARD_SECONDS,
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._records: Any = None
        self._written = clock()
        name = f"events.out.tfevents.{int(self._written):010d}.{socket.gethostname()}.{os.getpid()}"
        self.path = directory / name
        with _naming(self.path):
            directory.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("ab")

    def write(self, row: Row) -> bool:
        """False if the last event is too fresh."""
        now = self._clock()
        if now - self._written < self._interval:
            return False
        # A fifth of a second of imports, which a starting learner has better use for.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=now, step=row["update"])
        for group, columns in _TAGS.items():
            for column in columns.split():
                value = row.get(column)
                if isinstance(value, float | int) and math.isfinite(value):
                    event.summary.value.add(tag=f"{group}/{column}", simple_value=value)
        with _naming(self.path):
            if self._records is None:
                self._records = RecordWriter(self._stream)
                version = Event(wall_time=now, file_version="brain.Event:2")
                self._records.write(version.SerializeToString())
            self._records.write(event.SerializeToString())
            self._stream.flush()
        self._written = now
        return True

    def close(self) -> None:
        """Close the file; raises OSError when its rest cannot be written."""
        with _naming(self.path):
            self._stream.close()

    def __enter__(self) -> TensorBoardFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name into an OSError: those of write and flush come without one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _cut_torn_line(stream: IO[bytes]) -> None:
    size = stream.seek(0, os.SEEK_END)
    start = max(0, size - TAIL_BYTES)
    stream.seek(start)
    tail = stream.read(TAIL_BYTES)
    if tail and not tail.endswith(b"\n"):
        stream.truncate(start + tail.rfind(b"\n") + 1)
    stream.seek(0, os.SEEK_END)
