"""The local supervisor with real processes and real signals; the roles are a small stand-in."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncrl.backends.local import LocalRun
from asyncrl.backends.supervisor import Outcome
from asyncrl.backends.unit import Role
from asyncrl.run_folder import RunFolderError
from asyncrl_api.errors import ManifestError
from asyncrl_api.manifest import load_manifest
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus

FAKE_ROLE = Path(__file__).with_name("fake_role.py")
COMMANDS = {role: (sys.executable, str(FAKE_ROLE), "--role", role.value) for role in Role}
Behaviour = list[dict[str, Any]]


def make_job(
    *,
    actor: Behaviour | None = None,
    learner: Behaviour | None = None,
    server: Behaviour | None = None,
    actors: int = 1,
    ranks: int = 1,
    **run_policy: Any,
) -> AsyncRLJob:
    def role(behaviour: Behaviour | None, **fields: Any) -> dict[str, Any]:
        environment = [{"name": "BEHAVIOUR", "value": json.dumps(behaviour or [{}])}]
        return {"env": environment, **fields}

    return AsyncRLJob.model_validate(
        {
            "apiVersion": "asyncrl.io/v1alpha1",
            "kind": "AsyncRLJob",
            "metadata": {"name": "test"},
            "spec": {
                "workload": {"gymnasium": {"id": "CartPole-v1"}},
                "actors": role(actor, replicas=actors),
                "learner": role(learner, replicas=ranks),
                "parameterServer": role(server),
                "runPolicy": run_policy,
            },
        }
    )


class Script:
    """A display that does one thing after the other, each when the status allows it."""

    def __init__(self, *steps: tuple[Callable[[JobStatus], bool], Callable[[], None]]) -> None:
        self._steps = list(steps)
        self.statuses: list[JobStatus] = []
        self.events: list[str] = []

    def status(self, status: JobStatus) -> None:
        self.statuses.append(status)
        if self._steps and self._steps[0][0](status):
            self._steps.pop(0)[1]()

    def event(self, line: str) -> None:
        self.events.append(line)

    @property
    def done(self) -> bool:
        return not self._steps

    @property
    def phases(self) -> list[str]:
        """The phases in their order, each change once."""
        phases = [status.phase for status in self.statuses]
        return [p for p, q in zip(phases, [None, *phases], strict=False) if p != q]


def pid_of(folder: Path, process: str) -> int:
    document = json.loads((folder / "roles" / f"{process}.json").read_text())
    return int(document["pid"])


def kill(folder: Path, process: str, number: int = signal.SIGKILL) -> Callable[[], None]:
    return lambda: os.kill(pid_of(folder, process), number)


def finish(folder: Path) -> Callable[[], None]:
    def ask() -> None:
        document = json.loads((folder / "roles" / "learner-0.json").read_text())
        connection = http.client.HTTPConnection(document["http"], timeout=5)
        connection.request("GET", "/finish")
        connection.getresponse().read()
        connection.close()

    return ask


def all_ready(status: JobStatus) -> bool:
    return status.phase == "Running" and all(r.ready == r.desired for r in status.roles)


def back_after_loss(status: JobStatus) -> bool:
    return all_ready(status) and status.restarts == 1


def start(
    job: AsyncRLJob, folder: Path, display: Script | None = None, *, resume: bool = False
) -> LocalRun:
    return LocalRun(
        job, folder, display=display, resume=resume, commands=COMMANDS, poll_seconds=0.05
    )


def run(
    job: AsyncRLJob, folder: Path, display: Script | None = None, *, resume: bool = False
) -> Outcome:
    return start(job, folder, display, resume=resume).wait()


def read_status(folder: Path) -> JobStatus:
    return JobStatus.model_validate_json((folder / "status.json").read_text())


def condition(status: JobStatus, kind: str) -> tuple[str, str]:
    found = next(c for c in status.conditions if c.type == kind)
    return found.status, found.reason


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_completes_and_leaves_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = Script((all_ready, finish(folder)))
    job = make_job(actors=2)
    outcome = run(job, folder, script)
    assert (outcome.phase, outcome.reason) == ("Complete", "PolicyVersionsReached")
    assert script.phases == ["Pending", "Running", "Complete"]
    status = read_status(folder)
    assert status.training is not None
    assert status.training.policy_version == 4711, "the final report is newer than the last poll"
    assert condition(status, "Complete") == ("True", "PolicyVersionsReached")
    assert condition(status, "Running") == ("False", "Finished")
    assert condition(status, "Stable") == ("True", "Healthy")
    assert status.completion_time is not None
    assert load_manifest(folder / "manifest.yaml") == job
    logs = {path.name for path in (folder / "logs").iterdir()}
    assert logs == {"actor-0.log", "actor-1.log", "learner-0.log", "parameter-server-0.log"}
    header, first, told = (folder / "logs" / "learner-0.log").read_text().splitlines()
    assert header.startswith("--- learner-0 attempt 0 ")
    assert first == "learner-0 starts resume=False 127.0.0.1:0"
    assert told.startswith("told RANK=0 OMP=")


@pytest.mark.parametrize("process", ["actor-0", "parameter-server-0", "learner-0"])
def test_a_killed_process_comes_back_and_the_others_stay(tmp_path: Path, process: str) -> None:
    folder = tmp_path / "run"
    others = {"actor-0", "parameter-server-0", "learner-0"} - {process}
    before: dict[str, int] = {}

    def lose() -> None:
        before.update({name: pid_of(folder, name) for name in others})
        kill(folder, process)()

    def look_and_finish() -> None:
        assert {name: pid_of(folder, name) for name in others} == before
        finish(folder)()

    script = Script((all_ready, lose), (back_after_loss, look_and_finish))
    assert run(make_job(), folder, script).phase == "Complete"
    assert script.done
    roles = {role.name: role.restarts for role in read_status(folder).roles}
    assert sum(roles.values()) == 1
    assert script.events == [
        f"{process}: killed by SIGKILL (out of memory?); restart in 0.5 s",
        *(["learner: running again"] if process == "learner-0" else []),
    ]
    log = (folder / "logs" / f"{process}.log").read_text()
    assert f"--- {process} attempt 1 " in log
    if process == "learner-0":
        assert script.phases == ["Pending", "Running", "Restarting", "Running", "Complete"]
        assert read_status(folder).attempt == 1


def test_a_lost_rank_restarts_all_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = Script((all_ready, kill(folder, "learner-1")), (back_after_loss, finish(folder)))
    assert run(make_job(ranks=2), folder, script).phase == "Complete"
    for rank in (0, 1):
        log = (folder / "logs" / f"learner-{rank}.log").read_text()
        assert f"--- learner-{rank} attempt 1 " in log
        assert f"told RANK={rank} " in log


def test_a_terminated_actor_counts_as_a_disruption(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    terminate = kill(folder, "actor-0", signal.SIGTERM)
    script = Script((all_ready, terminate), (back_after_loss, finish(folder)))
    run(make_job(backoffLimit=0), folder, script)
    actors = read_status(folder).roles[0]
    assert (actors.restarts, actors.disruptions) == (0, 1)


def test_stop_checkpoints_and_ends_everything(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pids: list[int] = []

    def stop() -> None:
        names = ("actor-0", "learner-0", "parameter-server-0")
        pids.extend(pid_of(folder, name) for name in names)
        local.stop()

    local = start(make_job(), folder, Script((all_ready, stop)))
    outcome = local.wait()
    assert (outcome.phase, outcome.reason, outcome.exit_code) == ("Suspended", "Interrupted", 130)
    assert outcome.message == "interrupted after its checkpoint"
    assert (folder / "checkpoints" / "saved").exists()
    assert condition(read_status(folder), "Suspended") == ("True", "Interrupted")
    assert len(pids) == 3
    assert not [pid for pid in pids if is_alive(pid)]


def test_what_ignores_the_signal_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = make_job(learner=[{"ignore_terms": True}], terminationGracePeriodSeconds=1)
    script = Script((all_ready, lambda: local.stop()))
    local = start(job, folder, script)
    outcome = local.wait()
    assert outcome.reason == "Interrupted"
    assert outcome.message == (
        "interrupted, without a last checkpoint (killed by SIGKILL (out of memory?))"
    )


def test_wrong_configuration_fails_with_the_line_of_the_role(tmp_path: Path) -> None:
    line = "spec.workload.gymnasium.id: no environment CartPole-v9; use CartPole-v1"
    wrong = {"exit": 2, "reason": "UnknownEnvironment", "message": line}
    outcome = run(make_job(actor=[wrong]), tmp_path / "run")
    assert (outcome.phase, outcome.reason) == ("Failed", "UnknownEnvironment")
    assert outcome.message == f"actor-0: {line}"
    assert condition(read_status(tmp_path / "run"), "Failed") == ("True", "UnknownEnvironment")


def test_a_crash_without_a_message_shows_the_last_line_of_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = run(make_job(learner=[{"exit": 1}]), folder)
    log = folder / "logs" / "learner-0.log"
    assert outcome.message.startswith("learner-0: ended with exit code 1: told RANK=0")
    assert outcome.message.endswith(f"; see {log}")


def test_restarts_end_at_the_limit(tmp_path: Path) -> None:
    down = {"exit": 69, "reason": "PeerUnavailable", "message": "learner: no parameter server"}
    outcome = run(make_job(learner=[down], backoffLimit=1), tmp_path / "run")
    assert outcome.reason == "BackoffLimitExceeded"
    assert outcome.message.startswith("learner: no parameter server (failed 2 times")


def test_a_learner_that_never_reports_fails_the_run(tmp_path: Path) -> None:
    job = make_job(learner=[{"silent": True}], stallTimeoutSeconds=1)
    outcome = run(job, tmp_path / "run")
    assert outcome.reason == "Stalled"
    assert "no report within 2 s" in outcome.message


def test_a_stalled_learner_is_restarted_and_the_cause_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    unhealthy = {"unhealthy": "environment: a step takes longer than 1 s"}
    job = make_job(learner=[{"stall": True}, {}], actor=[unhealthy, {}], stallTimeoutSeconds=2)
    ready_again = Script(
        (lambda s: all_ready(s) and s.restarts == 2 and s.attempt == 1, finish(folder))
    )
    assert run(job, folder, ready_again).phase == "Complete"
    assert ready_again.events[0].startswith(("actor-0: environment", "learner-0: no progress"))
    assert any("learner-0: no progress for 2 s (actor-0: env" in e for e in ready_again.events)


def test_the_deadline_ends_the_run(tmp_path: Path) -> None:
    outcome = run(make_job(activeDeadlineSeconds=1), tmp_path / "run")
    assert (outcome.phase, outcome.reason) == ("Failed", "DeadlineExceeded")
    assert outcome.message.startswith("spec.runPolicy.activeDeadlineSeconds: 1 s")


def test_a_learner_that_suspends_itself_suspends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    learner = [{"outcome": "Suspended", "reason": "SuspendedByStability"}]
    script = Script((all_ready, finish(folder)))
    outcome = run(make_job(learner=learner), folder, script)
    assert (outcome.phase, outcome.exit_code) == ("Suspended", 1)
    assert condition(read_status(folder), "Suspended") == ("True", "SuspendedByStability")


def test_resume_continues_in_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = Script((all_ready, finish(folder)))
    run(make_job(), folder, script)
    with pytest.raises(RunFolderError, match="not empty; continue the run in it with --resume"):
        run(make_job(), folder)
    (folder / "finish.flag").unlink()
    # On one machine nothing is on a volume, so it may be another.
    other = make_job().document()
    other["spec"]["checkpoint"]["volume"] = {"claim": {}}
    job = AsyncRLJob.model_validate(other)
    outcome = run(job, folder, Script((all_ready, finish(folder))), resume=True)
    assert outcome.phase == "Complete"
    assert "starts resume=True" in (folder / "logs" / "learner-0.log").read_text()


def test_resume_refuses_another_task(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(make_job(), folder, Script((all_ready, finish(folder))))
    other = make_job().document()
    other["spec"]["workload"]["gymnasium"]["id"] = "Acrobot-v1"
    with pytest.raises(RunFolderError, match=r"spec\.workload\.gymnasium\.id"):
        run(AsyncRLJob.model_validate(other), folder, resume=True)
    with pytest.raises(RunFolderError, match="no run to resume"):
        run(make_job(), tmp_path / "empty", resume=True)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    refusals: list[str] = []

    def intrude() -> None:
        with pytest.raises(RunFolderError) as refusal:
            run(make_job(), folder, resume=True)
        refusals.append(str(refusal.value))
        finish(folder)()

    run(make_job(), folder, Script((all_ready, intrude)))
    assert "another asyncrl run uses this folder" in refusals[0]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="Not a directory; choose another folder"):
        run(make_job(), tmp_path / "file" / "run")


def test_a_full_disk_fails_the_run_and_leaves_no_process(tmp_path: Path) -> None:
    """A limit on file sizes refuses writes as a full disk does, for one process and any user."""
    program = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_local_run import Script, all_ready, make_job, run
def fill(): resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
outcome = run(make_job(), Path({str(tmp_path / "run")!r}), Script((all_ready, fill)))
print(outcome.phase, outcome.reason, outcome.message, sep="|")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    phase, reason, message = result.stdout.strip().split("|")
    assert (phase, reason) == ("Failed", "DiskFull")
    assert "File too large; free space" in message


def test_no_role_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """The roles' own watch on their parent, over the environment that the supervisor gives them."""
    role = (
        "import sys; from asyncrl_worker.role import run_role; import os, pathlib\n"
        "def main(arguments, stop):\n"
        "    folder = arguments.run_directory / 'roles'\n"
        "    (folder / f'{arguments.role}.pid').write_text(str(os.getpid()))\n"
        "    print('up', flush=True); stop.wait(60); return 130\n"
        "sys.exit(run_role(sys.argv[1], main, sys.argv[2:]))"
    )
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_local_run import make_job
from asyncrl.backends.local import LocalRun
from asyncrl.backends.unit import Role
commands = {{role: (sys.executable, "-c", {role!r}, role.value) for role in Role}}
LocalRun(make_job(), Path({str(tmp_path / "run")!r}), commands=commands).wait()
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    roles = tmp_path / "run" / "roles"
    pids: list[int] = []

    def all_up() -> bool:
        pids[:] = [int(text) for p in roles.glob("*.pid") if (text := p.read_text())]
        return len(pids) == 3

    wait_for(all_up)
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def wait_for(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for another process to reach a state that it cannot announce."""
    pause = threading.Event()
    for _ in range(round(seconds / 0.02)):
        if holds():
            return
        pause.wait(0.02)
    pytest.fail("did not come to pass in time")


def test_a_manifest_error_is_not_swallowed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "manifest.yaml").write_text("kind: AsyncRLJob\n")
    with pytest.raises(ManifestError):
        run(make_job(), folder, resume=True)
