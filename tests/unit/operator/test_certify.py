"""The Secret of a job over its life: made, kept, renewed before it ends, and made anew if lost."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from asyncrl_api.reasons import Reason
from asyncrl_operator.children import Children
from asyncrl_operator.kube.certificates import (
    AUTHORITY_LIFE,
    LIFE,
    RENEWED_BEFORE,
    files_of,
    first_end,
    secret,
)
from asyncrl_operator.kube.client import SECRET, Api, ApiError, Kind, Object
from asyncrl_operator.memory import Memory
from asyncrl_operator.plan.names import Owner
from asyncrl_operator.writer import SECRET_SECONDS, Refused, Writer

START = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = Owner("job", "default", "uid")
SECOND = timedelta(seconds=1)
READ_AGAIN = timedelta(seconds=SECRET_SECONDS) + SECOND


class OneSecret:
    """An API server that has one Secret, or none."""

    def __init__(self) -> None:
        self.stored: Object | None = None
        self.reads = 0
        self.writes = 0
        self.down = False
        self.refuses = False

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        assert (kind, namespace, name) == (SECRET, OWNER.namespace, OWNER.secret)
        self.reads += 1
        return deepcopy(self.stored)

    async def apply(self, kind: Kind, document: Object, _manager: str, **_: Any) -> Object:
        assert kind == SECRET
        if self.down:
            raise ApiError(503, "Unavailable", "")
        if self.refuses:
            raise ApiError(403, "Forbidden", "exceeded quota: secrets")
        self.writes += 1
        self.stored = deepcopy(document)
        return document

    @property
    def files(self) -> dict[str, bytes]:
        assert self.stored is not None
        return files_of(self.stored)

    @property
    def end(self) -> datetime:
        found = first_end(self.files)
        assert found is not None
        return found


class Certified:
    """A job whose operator looks at its Secret whenever it is told the time."""

    def __init__(self) -> None:
        self.api = OneSecret()
        self.memory = Memory(OWNER.uid)
        self.writer = Writer(cast(Api, self.api), cast(Children, None))

    def look(self, now: datetime) -> None:
        asyncio.run(self.writer.certify(OWNER, self.memory, now))


@pytest.fixture
def job() -> Certified:
    """Whose Secret was made at the start."""
    job = Certified()
    job.look(START)
    return job


def test_a_new_job_has_a_secret_of_its_own(job: Certified) -> None:
    assert job.api.stored is not None
    assert job.api.stored["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
    assert job.api.end == START + LIFE
    assert job.memory.files == job.api.files


def test_what_is_good_is_neither_written_again_nor_read_at_every_look(job: Certified) -> None:
    for seconds in (1, 10, SECRET_SECONDS):
        job.look(START + timedelta(seconds=seconds))
    assert (job.api.reads, job.api.writes) == (1, 1)
    job.look(START + READ_AGAIN)
    assert (job.api.reads, job.api.writes) == (2, 1)


def test_certificates_are_renewed_well_before_they_end(job: Certified) -> None:
    before = job.api.files
    renewal = START + LIFE - RENEWED_BEFORE
    job.look(renewal - SECOND)
    assert job.api.files == before
    job.look(renewal)
    after = job.api.files
    assert job.api.end == renewal + LIFE
    assert after["ca.crt"] == before["ca.crt"], "peers of either trust each other meanwhile"
    assert after["learner.crt"] != before["learner.crt"]
    assert job.memory.files == after, "with these the operator asks for reports"
    job.look(renewal + READ_AGAIN)
    assert job.api.writes == 2


def test_certificates_are_renewed_by_an_operator_that_has_just_started(job: Certified) -> None:
    before = job.api.files
    job.memory = Memory(OWNER.uid)
    job.look(START + LIFE + timedelta(days=30))
    assert job.api.end > START + LIFE + timedelta(days=30)
    assert job.api.files["ca.crt"] == before["ca.crt"]


def test_an_authority_that_would_end_before_its_certificates_is_made_anew(job: Certified) -> None:
    before = job.api.files
    for _ in range(AUTHORITY_LIFE // (LIFE - RENEWED_BEFORE) + 1):
        now = job.api.end - RENEWED_BEFORE
        job.look(now)
        assert job.api.end == now + LIFE, "of the authority too"
    assert now > START + AUTHORITY_LIFE
    assert job.api.files["ca.crt"] != before["ca.crt"]


def test_a_secret_that_is_gone_is_made_anew(job: Certified) -> None:
    job.api.stored = None
    job.look(START + READ_AGAIN)
    assert job.api.end == START + READ_AGAIN + LIFE
    assert job.memory.files == job.api.files


def test_a_secret_that_is_damaged_is_made_anew_by_its_authority(job: Certified) -> None:
    before = job.api.files
    assert job.api.stored is not None
    del job.api.stored["data"]["learner.key"]
    job.look(START + READ_AGAIN)
    assert job.api.files.keys() == before.keys()
    assert job.api.files["ca.crt"] == before["ca.crt"]


def test_a_renewal_that_fails_is_tried_again(job: Certified) -> None:
    before, renewal = job.api.files, START + LIFE - RENEWED_BEFORE
    job.api.down = True
    with pytest.raises(ApiError):
        job.look(renewal)
    assert job.memory.files == before, "what pods have still holds"
    job.api.down = False
    job.look(renewal + SECOND)
    assert job.api.end == renewal + SECOND + LIFE


def test_a_secret_of_somebody_else_is_left_alone() -> None:
    job = Certified()
    other = secret(Owner("other", "default", "another-uid"), {"mine": b"x"})
    job.api.stored = other | {"metadata": other["metadata"] | {"name": OWNER.secret}}
    with pytest.raises(Refused) as caught:
        job.look(START)
    assert caught.value.note.reason == Reason.NAME_TAKEN
    assert job.api.writes == 0


@pytest.mark.parametrize("there", [False, True], ids=["a new job", "a job that runs"])
def test_a_secret_that_the_cluster_refuses_is_said_before_anything_is_made(there: bool) -> None:
    job = Certified()
    if there:
        job.look(START)
        job.api.stored = None
    job.api.refuses = True
    with pytest.raises(Refused) as caught:
        asyncio.run(job.writer.check(OWNER, [], []))
    line = "Secret job-tls: exceeded quota: secrets"
    assert (caught.value.note.reason, caught.value.note.message) == (Reason.OBJECT_REFUSED, line)
    with pytest.raises(Refused):
        job.look(START + READ_AGAIN)


def test_a_secret_that_is_there_is_not_tried(job: Certified) -> None:
    job.api.refuses = True
    asyncio.run(job.writer.check(OWNER, [], []))
