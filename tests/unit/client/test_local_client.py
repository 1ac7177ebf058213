"""Which run the Python client means on this machine; with real processes: tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncrl.client import JobNotFoundError, local

MANIFEST = """\
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {{name: {name}}}
spec: {{workload: {{gymnasium: {{id: CartPole-v1}}}}}}
"""


def make(path: Path, job: str) -> Path:
    path.mkdir(parents=True)
    (path / "roles").mkdir()
    (path / "manifest.yaml").write_text(MANIFEST.format(name=job))
    (path / "status.json").write_text('{"phase": "Suspended", "reason": "Interrupted"}')
    return path


@pytest.mark.parametrize("folder", ["cartpole-lag16-20260102-000000", "cartpole"])
def test_the_run_of_another_job_is_never_removed_or_resumed(tmp_path: Path, folder: str) -> None:
    other = make(tmp_path / folder, "cartpole-lag16")
    client = local(tmp_path)
    for verb in (client.delete, client.resume):
        with pytest.raises(JobNotFoundError, match=r"^cartpole: no such run"):
            verb("cartpole")
    names = sorted(path.name for path in other.iterdir())
    assert names == ["manifest.yaml", "roles", "status.json"]


def test_a_job_is_deleted_beside_one_whose_name_begins_alike(tmp_path: Path) -> None:
    mine = make(tmp_path / "cartpole-20260101-000000", "cartpole")
    other = make(tmp_path / "cartpole-lag16-20260102-000000", "cartpole-lag16")
    local(tmp_path).delete("cartpole")
    assert (mine.exists(), other.exists()) == (False, True)


def test_a_folder_given_in_full_can_be_looked_at(tmp_path: Path) -> None:
    make(tmp_path / "cartpole-20260101-000000", "cartpole")
    assert local(tmp_path).status("cartpole-20260101-000000").phase == "Suspended"
