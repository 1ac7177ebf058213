"""The status: small, in Kubernetes' shapes, and honest about what is not known."""

import json
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asyncrl_api.reasons import CONDITION_MEANINGS, Reason
from asyncrl_api.status import (
    LONG_MESSAGE_LENGTH,
    MESSAGE_LENGTH,
    AlignmentStatus,
    Condition,
    ConditionType,
    JobStatus,
    LearnerReport,
    LedgerStatus,
    StabilityStatus,
)

NOW = datetime(2026, 1, 31, 12, 30, 59, 123456, tzinfo=UTC)


def test_the_longest_status_is_under_8_kb(full_status: JobStatus) -> None:
    text = full_status.model_dump_json(by_alias=True)
    assert len(text.encode()) < 8192
    assert all(json.loads(text).values())


def test_a_status_survives_json(full_status: JobStatus) -> None:
    text = full_status.model_dump_json(by_alias=True)
    read = JobStatus.model_validate_json(text)
    assert read.model_dump_json(by_alias=True) == text
    assert JobStatus.model_validate(json.loads(text)) == read


def test_absent_is_null_and_never_zero() -> None:
    assert AlignmentStatus().model_dump(mode="json", by_alias=True) == {
        "cosine": None,
        "smoothed": None,
        "relative": None,
        "regime": None,
        "low": None,
        "high": None,
        "calibrated": None,
        "projectedFraction": None,
        "skippedFraction": None,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_absent(value: float) -> None:
    assert StabilityStatus(kl=value).kl is None


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_numbers_are_written_with_four_significant_digits(value: float) -> None:
    status = AlignmentStatus(cosine=value)
    assert status.cosine == value
    written = status.model_dump()["cosine"]
    assert written == pytest.approx(value, rel=5e-4)
    if abs(value) < 10_000:
        assert f"{written:.4g}" == f"{value:.4g}"
        assert float(f"{written:.4g}") == written
    else:
        assert written == round(value), "no digit before the point is lost"


def test_times_are_utc_to_the_second() -> None:
    report = LearnerReport(time=NOW)
    assert json.loads(report.model_dump_json(by_alias=True))["time"] == "2026-01-31T12:30:59Z"
    with pytest.raises(ValidationError):
        LearnerReport(time=NOW.replace(tzinfo=None))


@pytest.mark.parametrize("kind", get_args(ConditionType))
def test_messages_become_one_bounded_line(kind: ConditionType) -> None:
    condition = Condition(
        type=kind,
        status="True",
        reason=Reason.DISK_FULL,
        message="line one\n  line two" + " x" * 1000,
        last_transition_time=NOW,
    )
    assert condition.message.startswith("line one line two x")
    assert condition.message.endswith("...")
    long = kind in ("Running", "Restarting", "Failed")
    assert len(condition.message) == (LONG_MESSAGE_LENGTH if long else MESSAGE_LENGTH)
    known = JobStatus(message=condition.message, conditions=[condition])
    assert known.message == condition.message, "it is told in full"


def test_a_field_of_a_newer_version_is_ignored() -> None:
    assert JobStatus.model_validate({"phase": "Running", "later": 1}).phase == "Running"


@given(
    st.integers(0, 99),
    st.dictionaries(st.sampled_from(["stale", "malformed"]), st.integers(0, 9)),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 2),
)
def test_the_ledger_knows_whether_it_balances(
    trained: int, dropped: dict[str, int], queued: int, in_flight: int, missing: int
) -> None:
    known = trained + sum(dropped.values()) + queued + in_flight
    ledger = LedgerStatus(
        produced=known + missing,
        trained=trained,
        dropped=dropped,
        queued=queued,
        in_flight=in_flight,
    )
    assert ledger.balanced == (missing == 0)


def test_reasons_are_camel_case_unique_and_explained() -> None:
    for reason in Reason:
        assert reason.isalpha()
        assert reason[0].isupper()
        assert len(reason) <= 64
        assert reason.meaning.endswith(".")
        assert reason.name == "".join(
            f"_{letter}" if letter.isupper() else letter.upper() for letter in reason
        ).lstrip("_")
    assert set(CONDITION_MEANINGS) == set(get_args(ConditionType))
