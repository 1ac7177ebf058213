"""The Python client on this machine: the verbs of clusters, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from e2e.harness import Folder, gated_document, is_alive, job_document, make_job, until

from asyncrl.client import JobError, JobNotFoundError, ManifestError, local
from asyncrl.run_folder import find_run_folder

STEP = Path(__file__).parents[2] / "examples" / "pipeline_step.py"


def folder_of(runs: Path, name: str) -> Folder:
    return Folder(find_run_folder(name, runs).path)


def test_submit_watch_wait_logs_and_delete(tmp_path: Path) -> None:
    client = local(tmp_path / "runs")
    job = make_job(job_document())
    name = client.submit(job)
    phases = [status.phase for status in client.watch(name)]
    assert (phases[0], phases[-1]) == ("Pending", "Complete")
    outcome = client.wait(name)
    assert (outcome.phase, outcome.reason, outcome.exit_code) == (
        "Complete",
        "PolicyVersionsReached",
        0,
    )
    assert client.status(name).phase == "Complete"
    (header, *_) = client.logs(name, role="learner", index=0)
    assert header.process == "learner-0"
    assert "attempt 0" in header.text
    with pytest.raises(JobError, match="is Complete, there is nothing to resume"):
        client.resume(name)
    folder = folder_of(tmp_path / "runs", name)
    client.delete(name)
    assert not folder.path.exists()
    with pytest.raises(JobNotFoundError, match="no such run"):
        client.status(name)


def test_suspend_scale_and_resume_lose_no_version(tmp_path: Path) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    client = local(runs)
    name = client.submit(make_job(gated_document(gate)))
    folder = folder_of(runs, name)
    until(lambda: client.status(name).training, "the first report")
    with pytest.raises(JobError, match="runs already; wait for it"):
        client.submit(make_job(gated_document(gate)))
    with pytest.raises(TimeoutError, match=r"still Running after 0\.1 s"):
        client.wait(name, timeout=0.1)
    with pytest.raises(ManifestError, match=r"spec\.actors\.replicas: 0 is less than 1"):
        client.scale(name, 0)
    pids = folder.pids()
    client.suspend(name)
    assert not any(is_alive(pid) for pid in pids.values())
    outcome = client.wait(name)
    assert (outcome.phase, outcome.reason) == ("Suspended", "Interrupted")
    saved = folder.newest_checkpoint()

    client.resume(name)
    client.scale(name, 3)
    until(lambda: folder.is_present("actor-2"), "the third actor")
    gate.touch()
    assert client.wait(name).phase == "Complete"
    versions = [row["update"] for row in folder.rows()]
    assert versions == list(range(1, len(versions) + 1)), f"from the checkpoint at {saved}"


def test_what_another_program_runs_can_be_looked_at(tmp_path: Path) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    owner = local(runs)
    name = owner.submit(make_job(gated_document(gate)))
    other = local(runs)
    assert next(iter(other.watch(name))).phase in ("Pending", "Running")
    for verb in (other.suspend, other.delete):
        with pytest.raises(JobError, match="is not a run of this program; end it where it runs"):
            verb(name)
    gate.touch()
    assert other.wait(name).phase == "Complete"
    assert owner.wait(name).phase == "Complete"


def test_a_pipeline_step_that_is_interrupted_ends_its_run_after_a_checkpoint(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    manifest = tmp_path / "job.yaml"
    manifest.write_text(yaml.safe_dump(gated_document(gate)))
    process = subprocess.Popen(
        [sys.executable, str(STEP), str(manifest), "local"],
        cwd=tmp_path,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    name = make_job(gated_document(gate)).name
    runs = tmp_path / "runs"
    until(lambda: list(runs.glob("*/status.json")) or None, "the status of the run")
    folder = folder_of(runs, name)
    until(lambda: folder.learner(), "the learner's report")
    pids = folder.pids()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert not any(is_alive(pid) for pid in pids.values())
    status = folder.read_status()
    assert status is not None
    assert (status.phase, status.reason) == ("Suspended", "Interrupted")


def test_a_pipeline_step_on_this_machine(tmp_path: Path) -> None:
    manifest = tmp_path / "job.yaml"
    manifest.write_text(yaml.safe_dump(job_document()))
    done = subprocess.run(
        [sys.executable, str(STEP), str(manifest), "local"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("test: Complete, PolicyVersionsReached")
