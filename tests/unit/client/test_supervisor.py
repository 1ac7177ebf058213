"""The decisions of the supervisor, with the time in hand."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrl.backends.supervisor import (
    BACKOFF_CAP_SECONDS,
    DRAIN_SECONDS,
    UNIT_GRACE_SECONDS,
    Outcome,
    Policy,
    Supervisor,
    backoff,
)
from asyncrl.backends.unit import (
    Action,
    Diagnose,
    Kill,
    ProcessName,
    Role,
    Start,
    Terminate,
)
from asyncrl_api.exits import FAILURE_MEMORY_SECONDS, Note, Verdict, verdict
from asyncrl_api.reasons import Reason

SERVER = ProcessName(Role.PARAMETER_SERVER, 0)
LEARNER = ProcessName(Role.LEARNER, 0)
RANK_1 = ProcessName(Role.LEARNER, 1)
ACTORS = [ProcessName(Role.ACTOR, index) for index in range(4)]


def begun(**policy: object) -> Supervisor:
    supervisor = Supervisor(Policy(**{"actors": 2, **policy}))  # type: ignore[arg-type]
    supervisor.begin(0.0)
    return supervisor


def started(actions: Iterable[Action]) -> list[tuple[str, int]]:
    return [(str(a.process), a.attempt) for a in actions if isinstance(a, Start)]


def restarts(supervisor: Supervisor) -> dict[str, tuple[int, int]]:
    return {str(u.members[0]): (u.restarts, u.disruptions) for u in supervisor.units}


def test_begins_with_the_learner_and_every_process_once() -> None:
    supervisor = Supervisor(Policy(actors=2, learners=2))
    assert started(supervisor.begin(0.0)) == [
        ("learner-0", 0),
        ("learner-1", 0),
        ("parameter-server-0", 0),
        ("actor-0", 0),
        ("actor-1", 0),
    ]
    assert supervisor.outcome is None


@pytest.mark.parametrize("process", [ACTORS[0], LEARNER, SERVER])
def test_a_killed_process_is_restarted_after_its_delay(process: ProcessName) -> None:
    supervisor = begun()
    assert supervisor.exited(process, -signal.SIGKILL, None, 10.0) == []
    assert supervisor.wake_at() == 10.5
    assert supervisor.tick(10.4) == []
    assert started(supervisor.tick(10.5)) == [(str(process), 1)]
    assert supervisor.tick(10.6) == []
    assert restarts(supervisor)[str(process)] == (1, 0)
    assert supervisor.events == [f"{process}: killed by SIGKILL (out of memory?); restart in 0.5 s"]


def test_the_delay_doubles_and_a_quiet_time_clears_it() -> None:
    supervisor = begun(backoff_limit=100, stall_timeout=None)
    now, delays = 0.0, []
    for _ in range(8):
        supervisor.exited(ACTORS[0], 70, None, now)
        due = supervisor.wake_at()
        assert due is not None
        delays.append(due - now)
        assert started(supervisor.tick(due))
        now = due
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]
    now += FAILURE_MEMORY_SECONDS + 1
    supervisor.exited(ACTORS[0], 70, None, now)
    assert supervisor.wake_at() == now + 0.5


@given(st.integers(1, 10_000))
def test_the_delay_is_capped_and_never_shrinks(failures: int) -> None:
    assert 0 < backoff(failures) <= backoff(failures + 1) <= BACKOFF_CAP_SECONDS


def test_more_failures_than_the_limit_fail_the_run_with_the_last_cause() -> None:
    supervisor = begun(backoff_limit=1)
    note = Note("PeerUnavailable", "parameter server not reachable")
    supervisor.exited(ACTORS[1], 69, note, 0.0)
    supervisor.tick(0.5)
    actions = supervisor.exited(ACTORS[1], 69, note, 1.0)
    assert actions == [Terminate(LEARNER)]
    end_all(supervisor, 1.0)
    outcome = supervisor.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.reason) == ("Failed", Reason.BACKOFF_LIMIT_EXCEEDED)
    assert outcome.message == (
        "actor-1: parameter server not reachable (failed 2 times; spec.runPolicy.backoffLimit)"
    )
    assert outcome.exit_code == 1


def end_all(supervisor: Supervisor, now: float, learner_code: int = 130) -> None:
    """Every process obeys SIGTERM."""
    for _ in range(4):
        for unit in supervisor.units:
            for process in sorted(unit.running):
                if process in unit.asked:
                    code = learner_code if process.role is Role.LEARNER else 130
                    supervisor.exited(process, code, None, now)


@pytest.mark.parametrize("code", [1, 2, 74])
def test_configuration_disk_and_divergence_are_not_retried(code: int) -> None:
    supervisor = begun()
    note = Note("UnknownEnvironment", "spec.workload.gymnasium.id: no CartPole-v9; use CartPole-v1")
    supervisor.exited(ACTORS[0], code, note, 0.0)
    assert supervisor.ending
    end_all(supervisor, 0.0)
    outcome = supervisor.outcome
    assert outcome is not None
    assert outcome.reason == "UnknownEnvironment"
    assert outcome.message == f"actor-0: {note.message}"


@pytest.mark.parametrize(
    ("process", "line"),
    [(LEARNER, "learner: loss is not finite"), (SERVER, "parameter server: batch too old")],
)
def test_a_note_that_names_its_role_is_not_prefixed_twice(process: ProcessName, line: str) -> None:
    supervisor = begun()
    supervisor.exited(process, 1, Note("Diverged", line), 0.0)
    end_all(supervisor, 0.0)
    assert supervisor.outcome is not None
    assert supervisor.outcome.message == line


def test_a_termination_from_outside_is_a_disruption_without_a_limit() -> None:
    supervisor = begun(backoff_limit=0)
    for now in (0.0, 10.0, 20.0):
        supervisor.exited(ACTORS[0], 130, None, now)
        assert started(supervisor.tick(now + 5.0))
    assert restarts(supervisor)["actor-0"] == (0, 3)


def test_exit_codes_mean_what_the_roles_mean() -> None:
    assert [verdict(code) for code in (0, 1, 2, 74)] == [Verdict.DONE] + [Verdict.FATAL] * 3
    assert {verdict(code) for code in (69, 70, 127, -9, -11)} == {Verdict.RETRY}
    assert {verdict(code) for code in (130, 143, -15, -2)} == {Verdict.DISRUPTED}


def test_a_completed_run_lets_the_others_drain_before_it_ends_them() -> None:
    supervisor = begun()
    supervisor.concludes(Outcome("Complete", "TargetReturnReached", "475"))
    supervisor.exited(ACTORS[0], 0, None, 4.9)
    assert supervisor.exited(LEARNER, 0, None, 5.0) == []
    assert supervisor.outcome is None
    assert supervisor.wake_at() == 5.0 + DRAIN_SECONDS
    assert supervisor.tick(5.0 + DRAIN_SECONDS) == [Terminate(ACTORS[1])]
    assert supervisor.exited(ACTORS[1], 130, None, 16.0) == [Terminate(SERVER)]
    supervisor.exited(SERVER, 0, None, 16.0)
    assert supervisor.outcome == Outcome("Complete", "TargetReturnReached", "475")
    assert supervisor.outcome.exit_code == 0


def test_a_learner_that_suspends_itself_ends_with_code_1() -> None:
    supervisor = begun(actors=1)
    supervisor.concludes(Outcome("Suspended", Reason.SUSPENDED_BY_STABILITY, "kl 0.2"))
    for process in (LEARNER, ACTORS[0], SERVER):
        supervisor.exited(process, 0, None, 1.0)
    assert supervisor.outcome is not None
    assert (supervisor.outcome.phase, supervisor.outcome.exit_code) == ("Suspended", 1)


def test_an_interrupt_ends_the_learner_first_then_actors_then_the_server() -> None:
    supervisor = begun(grace=30)
    assert supervisor.interrupted(1.0) == [Terminate(LEARNER)]
    assert supervisor.exited(LEARNER, 130, None, 2.0) == [Terminate(a) for a in ACTORS[:2]]
    assert supervisor.exited(ACTORS[0], 130, None, 2.1) == []
    assert supervisor.exited(ACTORS[1], 130, None, 2.2) == [Terminate(SERVER)]
    assert supervisor.outcome is None
    supervisor.exited(SERVER, 130, None, 2.3)
    outcome = supervisor.outcome
    assert outcome is not None
    assert (outcome.phase, outcome.reason, outcome.exit_code) == ("Suspended", "Interrupted", 130)


def test_what_outlives_the_grace_period_is_killed() -> None:
    supervisor = begun(grace=30)
    supervisor.interrupted(1.0)
    assert supervisor.wake_at() == 31.0
    assert supervisor.tick(30.9) == []
    killed = {action.process for action in supervisor.tick(31.0) if isinstance(action, Kill)}
    assert killed == {LEARNER, SERVER, *ACTORS[:2]}
    for process in killed:
        supervisor.exited(process, -9, None, 31.1)
    assert supervisor.outcome is not None
    assert "without a last checkpoint" in supervisor.outcome.message


def test_a_second_interrupt_kills_at_once() -> None:
    supervisor = begun()
    supervisor.interrupted(1.0)
    assert {a.process for a in supervisor.interrupted(1.1) if isinstance(a, Kill)} == {
        LEARNER,
        SERVER,
        *ACTORS[:2],
    }


def test_a_learner_that_completes_while_interrupted_completed() -> None:
    supervisor = begun(actors=1)
    supervisor.interrupted(1.0)
    for process in (LEARNER, ACTORS[0], SERVER):
        supervisor.exited(process, 0, None, 1.0)
    assert supervisor.outcome is not None
    assert supervisor.outcome.phase == "Complete"


def test_a_checkpoint_that_fails_while_interrupted_is_a_failure() -> None:
    supervisor = begun(actors=1)
    supervisor.interrupted(1.0)
    supervisor.exited(LEARNER, 74, Note("DiskFull", "learner: checkpoints: no space"), 1.0)
    for process in (ACTORS[0], SERVER):
        supervisor.exited(process, 130, None, 1.0)
    assert supervisor.outcome is not None
    assert (supervisor.outcome.phase, supervisor.outcome.reason) == ("Failed", "DiskFull")


def test_all_ranks_restart_together_with_one_attempt() -> None:
    supervisor = begun(learners=2)
    assert supervisor.exited(RANK_1, -9, None, 1.0) == [Terminate(LEARNER)]
    assert supervisor.wake_at() == 1.0 + UNIT_GRACE_SECONDS
    assert supervisor.tick(6.0) == [Kill(LEARNER)]
    supervisor.exited(LEARNER, -9, None, 6.0)
    assert started(supervisor.tick(6.5)) == [("learner-0", 1), ("learner-1", 1)]
    assert restarts(supervisor)["learner-0"] == (1, 0)


def test_the_most_serious_exit_of_the_ranks_decides() -> None:
    supervisor = begun(learners=2)
    supervisor.exited(RANK_1, 70, Note("InternalError", "peer closed the connection"), 1.0)
    supervisor.exited(LEARNER, 1, Note("Diverged", "loss is not finite"), 1.1)
    end_all(supervisor, 1.2)
    assert supervisor.outcome is not None
    assert supervisor.outcome.reason == "Diverged"


def test_roles_that_drained_come_back_with_a_learner_that_did_not_end() -> None:
    supervisor = begun(actors=1)
    supervisor.exited(ACTORS[0], 0, None, 1.0)
    supervisor.exited(SERVER, 0, None, 1.0)
    supervisor.exited(LEARNER, 70, None, 2.0)
    assert started(supervisor.tick(2.5)) == [
        ("learner-0", 1),
        ("parameter-server-0", 1),
        ("actor-0", 1),
    ]


def test_no_report_after_the_start_fails_the_run() -> None:
    supervisor = begun(stall_timeout=60.0)
    assert supervisor.wake_at() == 120.0
    assert supervisor.tick(119.0) == []
    assert supervisor.tick(120.0) == [Terminate(LEARNER)]
    end_all(supervisor, 120.0)
    assert supervisor.outcome is not None
    assert supervisor.outcome.reason == Reason.STALLED
    assert "no report within 120 s" in supervisor.outcome.message


def test_a_stall_restarts_the_learner_and_the_unhealthy_and_a_second_one_fails() -> None:
    supervisor = begun(stall_timeout=60.0)
    supervisor.reported((0, 7), 10.0)
    supervisor.reported((0, 7), 69.0)
    assert supervisor.tick(70.0) == [Diagnose()]
    assert supervisor.tick(71.0) == []
    hung = {ACTORS[1]: "environment: step takes 60 s", LEARNER: "no update"}
    assert supervisor.diagnosed(hung, 72.0) == [Terminate(LEARNER), Terminate(ACTORS[1])]
    assert supervisor.tick(77.0) == [Kill(LEARNER), Kill(ACTORS[1])]
    supervisor.exited(ACTORS[1], -9, None, 77.0)
    supervisor.exited(LEARNER, -9, None, 77.0)
    assert supervisor.learner_restarting
    assert started(supervisor.tick(77.5)) == [("learner-0", 1), ("actor-1", 1)]
    supervisor.reported((1, 7), 80.0)
    assert not supervisor.learner_restarting
    supervisor.reported((1, 7), 139.0)
    assert supervisor.tick(140.0) == [Diagnose()]
    supervisor.diagnosed(hung, 140.0)
    end_all(supervisor, 140.0)
    assert supervisor.outcome is not None
    assert supervisor.outcome.reason == Reason.STALLED
    assert "actor-1: environment: step takes 60 s" in supervisor.outcome.message


def test_progress_between_two_stalls_forgives_the_first() -> None:
    supervisor = begun(stall_timeout=60.0)
    supervisor.reported((0, 7), 10.0)
    supervisor.tick(70.0)
    supervisor.diagnosed({}, 70.0)
    supervisor.exited(LEARNER, 130, None, 71.0)
    supervisor.tick(72.0)
    supervisor.reported((1, 7), 75.0)
    supervisor.reported((1, 8), 76.0)
    assert supervisor.tick(136.0) == [Diagnose()]
    assert supervisor.diagnosed({}, 136.0) == [Terminate(LEARNER)]
    assert not supervisor.ending


def test_an_unanswered_diagnosis_does_not_hang() -> None:
    supervisor = begun(stall_timeout=60.0)
    supervisor.reported((0, 7), 0.0)
    assert supervisor.tick(60.0) == [Diagnose()]
    due = supervisor.wake_at()
    assert due is not None
    assert supervisor.tick(due) == [Terminate(LEARNER)]


def test_the_active_deadline_fails_the_run_after_a_checkpoint() -> None:
    supervisor = begun(active_deadline=100.0, stall_timeout=None)
    assert supervisor.wake_at() == 100.0
    assert supervisor.tick(100.0) == [Terminate(LEARNER)]
    end_all(supervisor, 101.0)
    assert supervisor.outcome is not None
    assert supervisor.outcome.reason == Reason.DEADLINE_EXCEEDED


@given(
    st.lists(
        st.tuples(
            st.sampled_from([SERVER, LEARNER, RANK_1, *ACTORS]),
            st.sampled_from([0, 1, 2, 69, 70, 74, 130, -9, -11, -15]),
            st.floats(0.0, 40.0),
        ),
        max_size=60,
    ),
    st.floats(0.0, 100.0),
)
def test_any_history_ends_and_starts_nothing_twice(
    exits: list[tuple[ProcessName, int, float]], interrupt_after: float
) -> None:
    """Whatever dies when, no process runs twice, and an interrupt ends all within the grace."""
    supervisor = Supervisor(Policy(actors=4, learners=2, backoff_limit=2, grace=30.0))
    running: set[ProcessName] = set()
    attempts: dict[ProcessName, int] = {}

    def carry_out(actions: list[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Start):
                assert not supervisor.ending
                assert action.process not in running
                assert action.attempt > attempts.get(action.process, -1)
                attempts[action.process] = action.attempt
                running.add(action.process)
            elif isinstance(action, Kill) and action.process in running:
                running.discard(action.process)
                carry_out(supervisor.exited(action.process, -9, None, now), now)

    def wait_until(now: float) -> None:
        while (due := supervisor.wake_at()) is not None and due <= now:
            carry_out(supervisor.tick(due), due)
            assert supervisor.wake_at() != due, "would spin"

    now = 0.0
    carry_out(supervisor.begin(now), now)
    for process, code, pause in exits:
        now += pause
        wait_until(now)
        if process in running:
            running.discard(process)
            carry_out(supervisor.exited(process, code, None, now), now)
        else:
            carry_out(supervisor.reported((now,), now), now)
    now += interrupt_after
    wait_until(now)
    carry_out(supervisor.interrupted(now), now)
    wait_until(now + 30.0 + DRAIN_SECONDS)
    assert not running
    assert supervisor.outcome is not None
