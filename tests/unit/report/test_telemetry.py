"""metrics.jsonl and TensorBoard events: what is written, thinned, repaired, and how it fails."""

from __future__ import annotations

import errno
import json
import math
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncrl_worker.telemetry import (
    COLUMNS,
    MetricsFile,
    Row,
    Telemetry,
    TensorBoardFile,
    read_rows,
    stride,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def row(update: int, **values: object) -> Row:
    return {"time": update / 10, "update": update, "verdict": "Healthy", **values}  # type: ignore[dict-item]


def write(path: Path, updates: range, *, full_rows: int = 20_000, **values: object) -> None:
    with MetricsFile(path, full_rows=full_rows) as metrics:
        for update in updates:
            metrics.write(row(update, **values))


def test_a_row_is_one_json_object_with_short_numbers_and_null_for_what_is_not_finite(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.write(
            row(
                1, kl=1 / 3, maxLogRatio=math.inf, cosine=math.nan, reasons=("HighKL",), regime=None
            )
        )
    (line,) = path.read_text().splitlines()
    assert json.loads(line) == {
        "time": 0.1,
        "update": 1,
        "verdict": "Healthy",
        "kl": 0.333333,
        "maxLogRatio": None,
        "cosine": None,
        "reasons": ["HighKL"],
        "regime": None,
    }


def test_an_unknown_column_is_refused_by_name(tmp_path: Path) -> None:
    with (
        MetricsFile(tmp_path / "metrics.jsonl") as metrics,
        pytest.raises(ValueError, match="unknown columns klDivergence, retrun"),
    ):
        metrics.write(row(1, retrun=1.0, klDivergence=2.0))


@pytest.mark.parametrize(
    ("update", "expected"),
    [(1, 1), (19_999, 1), (20_000, 2), (40_000, 4), (80_000, 8), (10**6, 64)],
)
def test_the_stride_doubles_with_the_length_of_the_run(update: int, expected: int) -> None:
    assert stride(update) == expected


def test_a_long_run_grows_with_the_logarithm(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 6401), full_rows=100)
    updates = [each["update"] for each in read_rows(path)]
    assert updates[:99] == list(range(1, 100))
    assert 99 + 50 * 6 <= len(updates) <= 101 + 50 * 6
    assert updates[-1] == 6400


def test_rows_with_news_are_never_thinned_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, full_rows=1) as metrics:
        for update in range(1, 1001):
            evaluation = 100.0 if update < 501 else 200.0
            version = 1 if update < 777 else 2
            verdict = "Watch" if 301 <= update <= 303 else "Healthy"
            metrics.write(
                row(update, verdict=verdict, evaluationReturn=evaluation, evaluationVersion=version)
            )
    updates = {each["update"] for each in read_rows(path)}
    assert {1, 301, 304, 501, 777} <= updates
    assert not {302, 303, 502, 778} & updates


def test_rows_reach_the_file_within_a_second_of_updates(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, clock=clock) as metrics:
        metrics.write(row(1))
        assert read_rows(path) == []
        clock.now += 1.0
        metrics.write(row(2))
        assert [each["update"] for each in read_rows(path)] == [1, 2]


def test_a_restart_appends_and_the_repeated_updates_replace_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 11), episodeReturn=1.0)
    write(path, range(6, 9), episodeReturn=2.0)
    found = [(each["update"], each["episodeReturn"]) for each in read_rows(path)]
    assert found == [(u, 1.0) for u in range(1, 6)] + [(u, 2.0) for u in range(6, 9)]


@pytest.mark.parametrize("torn", [b'{"update": 3, "ti', b"{", b"\xff\xfe"])
def test_a_line_torn_by_a_kill_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 3))
    with path.open("ab") as stream:
        stream.write(torn)
    assert [each["update"] for each in read_rows(path)] == [1, 2]
    write(path, range(3, 5))
    assert [json.loads(line)["update"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_file_that_is_one_torn_line_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"update"')
    write(path, range(1, 2))
    assert [each["update"] for each in read_rows(path)] == [1]


def test_reading_passes_over_what_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    path.write_text('[1]\nnull\n{"update": "x"}\n{"time": 1}\n\n{"update": 4}\n')
    assert read_rows(path) == [{"update": 4}]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond `size` fail with EFBIG, by the same way as ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_error_names_the_file(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(row(1))
    with largest_file(10):
        with pytest.raises(OSError, match=r"File too large: '.*/metrics\.jsonl'") as caught:
            metrics.flush()
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            metrics.close()


def test_a_write_error_of_the_event_file_names_it_too(tmp_path: Path) -> None:
    clock = Clock()
    events = TensorBoardFile(tmp_path, clock=clock)
    clock.now += 2.0
    with (
        largest_file(10),
        pytest.raises(OSError, match=r"File too large: '.*/events\.out\.tfevents"),
    ):
        events.write(row(1, kl=0.1))
    events.close()


def test_closing_telemetry_closes_both_files_although_one_fails(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path)
    telemetry.write(row(1))
    with largest_file(0), pytest.raises(OSError, match=r"metrics\.jsonl"):
        telemetry.close()
    descriptors = [fd.resolve() for fd in Path("/proc/self/fd").iterdir()]
    assert not [path for path in descriptors if tmp_path in path.parents]


def test_an_unwritable_folder_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Telemetry(tmp_path / "file")


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    clock = Clock()
    with TensorBoardFile(tmp_path, clock=clock) as events:
        assert not events.write(row(1, kl=9.0))
        for update in (2, 3, 4):
            clock.now += 1.0
            assert events.write(row(update, kl=0.5 * update, cosine=None, queued=7, regime="Pass"))
            assert not events.write(row(update + 100, kl=9.0))
    assert scalars(tmp_path) == {
        "stability/kl": [(2, 1.0), (3, 1.5), (4, 2.0)],
        "ledger/queued": [(2, 7.0), (3, 7.0), (4, 7.0)],
    }


def test_non_finite_numbers_stay_out_of_the_events(tmp_path: Path) -> None:
    clock = Clock()
    with TensorBoardFile(tmp_path, clock=clock, interval=0.0) as events:
        events.write(row(1, kl=math.nan, cosine=math.inf, entropy=0.5))
    assert list(scalars(tmp_path)) == ["stability/entropy"]


def test_telemetry_writes_both_files_into_the_run_folder(tmp_path: Path) -> None:
    with Telemetry(tmp_path) as telemetry:
        telemetry.write(row(1, kl=0.1))
    assert [each["update"] for each in read_rows(tmp_path / "metrics.jsonl")] == [1]
    assert len(list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_the_columns_are_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "stability.md").read_text()
    assert [name for name in COLUMNS if f"| {name} |" not in text] == []


def test_no_torch_is_needed() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['numpy'] = None\n"
        "import asyncrl_worker.stability, asyncrl_worker.telemetry, asyncrl.report"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
