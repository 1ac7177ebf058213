"""onDegraded: what is asked for, how often, and how pace recovers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrl_worker.stability import Action, Judgement, Response, Verdict

HEALTHY, WATCH, DEGRADED, DIVERGED = Verdict


def judgement(verdict: Verdict, *reasons: str) -> Judgement:
    return Judgement(verdict, reasons, 0, float(verdict.rank))


def respond(response: Response, verdict: Verdict, count: int = 1) -> list[Action]:
    reasons = ("HighKL",) if verdict is not HEALTHY else ()
    return [response.respond(judgement(verdict, *reasons)) for _ in range(count)]


def asked(actions: list[Action]) -> list[str]:
    return [action.kind for action in actions if action.kind is not None]


@pytest.mark.parametrize(
    ("on_degraded", "kind"), [("warn", "Warn"), ("suspend", "Suspend"), ("fail", "Fail")]
)
def test_the_action_is_asked_for_once_per_entry_and_once_more_when_it_gets_worse(
    on_degraded: str, kind: str
) -> None:
    response = Response(on_degraded, staleness_max=4)  # type: ignore[arg-type]
    assert asked(respond(response, HEALTHY, 50) + respond(response, WATCH, 50)) == []
    entered = respond(response, DEGRADED, 100)
    assert asked(entered) == [kind]
    assert entered[0].message == "Degraded: HighKL"
    assert asked(respond(response, DIVERGED, 100)) == [kind]
    assert asked(respond(response, DEGRADED, 100) + respond(response, HEALTHY, 100)) == []
    assert asked(respond(response, DEGRADED, 10)) == [kind]


def test_pace_halves_while_degraded_and_gives_back_when_healthy() -> None:
    response = Response("pace", staleness_max=16, hold_updates=10)
    bounds = [action.staleness_bound for action in respond(response, DEGRADED, 45)]
    assert bounds[0] == 8
    assert [bounds.index(value) for value in (8, 4, 2, 1, 0)] == [0, 10, 20, 30, 40]

    assert asked(respond(response, WATCH, 100)) == []
    assert response.staleness_bound == 0

    back = respond(response, HEALTHY, 200)
    assert asked(back) == ["Pace"] * 16
    assert back[10].message == "Healthy; staleness bound 1 of 16"
    assert back[-1].staleness_bound == 16


def test_pace_of_a_synchronous_run_asks_for_nothing() -> None:
    response = Response("pace", staleness_max=0)
    assert asked(respond(response, DEGRADED, 100)) == []


def test_pace_of_an_exact_lag_announces_counts_and_reports_nothing() -> None:
    response = Response("pace", staleness_max=16, exact=True, hold_updates=10)
    actions = respond(response, DEGRADED, 100) + respond(response, HEALTHY, 100)
    assert asked(actions) == []
    assert {action.staleness_bound for action in actions} == {response.staleness_bound} == {16}


def test_an_exact_lag_wins_over_a_bound_that_pace_had_reduced() -> None:
    paced = Response("pace", staleness_max=16)
    respond(paced, DEGRADED)
    resumed = Response("pace", staleness_max=16, exact=True)
    resumed.load_state_dict(paced.state_dict())
    assert (paced.staleness_bound, resumed.staleness_bound) == (8, 16)


@pytest.mark.parametrize("on_degraded", ["warn", "pace", "suspend", "fail"])
def test_a_run_lost_to_non_finite_numbers_fails_once_whatever_was_configured(
    on_degraded: str,
) -> None:
    response = Response(on_degraded, staleness_max=4)  # type: ignore[arg-type]
    lost = judgement(DIVERGED, "NonFiniteParameters")
    actions = [response.respond(lost) for _ in range(5)]
    assert asked(actions) == ["Fail"]
    assert actions[0].message == "Diverged: NonFiniteParameters"


def test_a_dropped_non_finite_step_does_not_fail_a_run() -> None:
    response = Response("fail", staleness_max=4)
    assert asked([response.respond(judgement(WATCH, "NonFiniteLoss"))]) == []


def test_a_suspended_and_resumed_run_is_not_suspended_again_for_the_same_trouble() -> None:
    response = Response("suspend", staleness_max=4)
    assert asked(respond(response, DEGRADED, 3)) == ["Suspend"]
    resumed = Response("suspend", staleness_max=4)
    resumed.load_state_dict(json.loads(json.dumps(response.state_dict())))
    assert asked(respond(resumed, DEGRADED, 100)) == []


@pytest.mark.parametrize("on_degraded", ["warn", "pace"])
@pytest.mark.parametrize(("before", "after"), [(16, 4), (4, 16), (0, 4), (4, 4)])
def test_a_maximum_that_changed_at_a_resume_is_the_bound_of_a_run_that_was_not_paced(
    on_degraded: str, before: int, after: int
) -> None:
    response = Response(on_degraded, staleness_max=before)  # type: ignore[arg-type]
    respond(response, HEALTHY, 5)
    resumed = Response(on_degraded, staleness_max=after)  # type: ignore[arg-type]
    resumed.load_state_dict(response.state_dict())
    assert resumed.staleness_bound == after


@pytest.mark.parametrize(
    ("on_degraded", "maximum", "bound"),
    [("pace", 16, 4), ("pace", 32, 4), ("pace", 2, 2), ("warn", 16, 16), ("suspend", 8, 8)],
)
def test_a_bound_that_pace_reduced_is_kept_where_pace_can_give_it_back(
    on_degraded: str, maximum: int, bound: int
) -> None:
    paced = Response("pace", staleness_max=16, hold_updates=10)
    respond(paced, DEGRADED, 15)
    assert paced.staleness_bound == 4
    resumed = Response(on_degraded, staleness_max=maximum)  # type: ignore[arg-type]
    resumed.load_state_dict(json.loads(json.dumps(paced.state_dict())))
    assert resumed.staleness_bound == bound


@pytest.mark.parametrize(("field", "value"), [("staleness_max", -1), ("hold_updates", 0)])
def test_wrong_numbers_are_named(field: str, value: int) -> None:
    arguments = {"staleness_max": 4, "hold_updates": 30} | {field: value}
    with pytest.raises(ValueError, match=f"{field}: {value}"):
        Response("pace", **arguments)


@given(st.lists(st.sampled_from(list(Verdict)), max_size=120), st.integers(0, 32))
def test_the_bound_stays_within_its_limits_and_only_pace_moves_it(
    verdicts: list[Verdict], maximum: int
) -> None:
    response = Response("pace", staleness_max=maximum, hold_updates=3)
    before = maximum
    for verdict in verdicts:
        action = response.respond(judgement(verdict, "HighKL"))
        assert 0 <= action.staleness_bound <= maximum
        assert (action.kind == "Pace") == (action.staleness_bound != before)
        before = action.staleness_bound
