"""Writes the objects of a job, and only those that are not there as they are wanted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from asyncrl_api.exits import Note
from asyncrl_api.reasons import Reason
from asyncrl_operator.children import Children
from asyncrl_operator.kube.apply import is_applied, stamped, without_template
from asyncrl_operator.kube.certificates import (
    RENEWED_BEFORE,
    Files,
    files_of,
    first_end,
    issue,
    secret,
)
from asyncrl_operator.kube.client import (
    ASYNCRLJOB,
    EVENT,
    KINDS,
    POD,
    SECRET,
    Api,
    ApiError,
    Kind,
    Object,
)
from asyncrl_operator.memory import Memory
from asyncrl_operator.plan.events import Event
from asyncrl_operator.plan.names import MANAGER, Owner
from asyncrl_operator.plan.objects import Reference

SECRET_SECONDS = 600.0
"""A Secret is read again after this long, so that a lost one is made anew."""

log = logging.getLogger("asyncrl.operator")


class Refused(Exception):
    """An object of the job cannot be made for what is in it, its name, or the cluster's rules."""

    def __init__(self, note: Note) -> None:
        super().__init__(note.message)
        self.note = note


class Writer:
    """Writes to the API server for one job at a time. Everything raises ApiError."""

    def __init__(self, api: Api, children: Children) -> None:
        self._api = api
        self._children = children

    async def certify(self, owner: Owner, memory: Memory, now: datetime) -> None:
        """Make the Secret, and renew what is in it before it ends."""
        read = memory.files_read
        if read is None or (now - read).total_seconds() > SECRET_SECONDS:
            known = await self._secret(owner)
            memory.files = None if known is None else files_of(known)
            memory.files_read = now
        end = None if memory.files is None else first_end(memory.files)
        if end is not None and end - now > RENEWED_BEFORE:
            return
        files = issue(owner.name, now, memory.files)
        await self._apply_secret(owner, files)
        memory.files = files
        log.info("event=certificates_issued")

    async def check(
        self, owner: Owner, documents: Sequence[Object], successors: Sequence[Object]
    ) -> None:
        """Raises Refused if an object, or the Secret, would be refused.

        `successors` are Jobs whose names are taken for the moment.
        """
        if await self._secret(owner) is None:
            await self._apply_secret(owner, {}, dry_run=True)
        for document in documents:
            await self.apply(owner, document, dry_run=True)
        for document in successors:
            kind, name = KINDS[document["kind"]], document["metadata"]["name"]
            try:
                await self._api.create(
                    kind, owner.namespace, stamped(document), MANAGER, dry_run=True
                )
            except ApiError as error:
                # What is wrong with an object is found before its name is looked at.
                if error.status != 409:
                    _raise_refusal(error, kind, name)
                    raise

    async def _secret(self, owner: Owner) -> Object | None:
        known = await self._api.get(SECRET, owner.namespace, owner.secret)
        if known is not None:
            _check_owner(owner, known)
        return known

    async def _apply_secret(self, owner: Owner, files: Files, *, dry_run: bool = False) -> None:
        try:
            await self._api.apply(SECRET, secret(owner, files), MANAGER, dry_run=dry_run)
        except ApiError as error:
            _raise_refusal(error, SECRET, owner.secret)
            raise

    async def apply(self, owner: Owner, document: Object, *, dry_run: bool = False) -> None:
        """Make or change an object. Raises Refused for what cannot be right a little later."""
        kind = KINDS[document["kind"]]
        name = document["metadata"]["name"]
        wanted = stamped(document)
        key = (owner.namespace, owner.name)
        known = self._children.of_job(key).get((kind.name, name))
        if known is None:
            known = await self._api.get(kind, owner.namespace, name)
        if known is not None:
            _check_owner(owner, known)
            if is_applied(wanted, known):
                return
            if kind.name == "Job":
                wanted = without_template(wanted)
        try:
            if kind.name == "Job" and known is None:
                answer = await self._api.create(
                    kind, owner.namespace, wanted, MANAGER, dry_run=dry_run
                )
            else:
                answer = await self._api.apply(kind, wanted, MANAGER, dry_run=dry_run)
        except ApiError as error:
            _raise_refusal(error, kind, name)
            raise
        if dry_run:
            return
        self._children.learn(kind, answer)
        log.info("event=applied kind=%s name=%s", kind.name, name)

    async def delete(self, owner: Owner, reference: Reference) -> None:
        """Delete exactly this object."""
        await self._api.delete(
            KINDS[reference.kind], owner.namespace, reference.name, reference.uid
        )
        log.info("event=deleted kind=%s name=%s", reference.kind, reference.name)

    async def create_pod(self, pod: Object) -> None:
        """Make a pod, unless it is there."""
        metadata = pod["metadata"]
        try:
            answer = await self._api.create(POD, metadata["namespace"], pod, MANAGER)
        except ApiError as error:
            if error.status not in (403, 409):
                raise
            # There already, or refused by a quota: the Job's own back-off goes on.
            log.info('event=not_replaced pod=%s error="%s"', metadata["name"], error)
            return
        self._children.learn(POD, answer)
        log.info("event=replaced pod=%s/%s", metadata["namespace"], metadata["name"])

    async def post(self, owner: Owner, event: Event, now: datetime) -> None:
        """Tell an event; it may be lost."""
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        text = f"{owner.uid}/{event.reason}/{event.message}/{stamp}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        document = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{owner.name}.{digest}", "namespace": owner.namespace},
            "involvedObject": {
                "apiVersion": ASYNCRLJOB.api_version,
                "kind": ASYNCRLJOB.name,
                "name": owner.name,
                "namespace": owner.namespace,
                "uid": owner.uid,
            },
            "type": event.kind,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._api.create(EVENT, owner.namespace, document, MANAGER)
        except ApiError as error:
            # An event is for people; the state is in the status.
            if error.status != 409:
                log.warning('event=event_lost reason=%s error="%s"', event.reason, error)


def _raise_refusal(error: ApiError, kind: Kind, name: str) -> None:
    """Raise Refused for what cannot be right a little later."""
    if error.status in (400, 403, 422) or "field not declared" in error.message:
        line = f"{kind.name} {name}: {error.message or error.reason}"
        reason = Reason.OBJECT_REFUSED if error.status == 403 else Reason.INVALID_SPEC
        raise Refused(Note(reason, line)) from error


def _check_owner(owner: Owner, known: Object) -> None:
    owners: list[dict[str, Any]] = known["metadata"].get("ownerReferences") or []
    if any(reference.get("uid") == owner.uid for reference in owners):
        return
    kind, name = known["kind"], known["metadata"]["name"]
    if any(r.get("kind") == ASYNCRLJOB.name and r.get("name") == owner.name for r in owners):
        # Of an earlier job of this name, which the garbage collector is about to remove.
        raise ApiError(409, "Conflict", f"{kind} {name} is of an earlier job of this name")
    line = f"{kind} {name} exists and is not this job's; delete it, or rename the job"
    raise Refused(Note(Reason.NAME_TAKEN, line))
