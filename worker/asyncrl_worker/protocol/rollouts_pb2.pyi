from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Schema(_message.Message):
    __slots__ = ("observation_size", "discrete", "continuous")
    OBSERVATION_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISCRETE_FIELD_NUMBER: _ClassVar[int]
    CONTINUOUS_FIELD_NUMBER: _ClassVar[int]
    observation_size: int
    discrete: int
    continuous: int
    def __init__(self, observation_size: _Optional[int] = ..., discrete: _Optional[int] = ..., continuous: _Optional[int] = ...) -> None: ...

class ActorMessage(_message.Message):
    __slots__ = ("hello", "ready", "fragment", "evaluation", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ready: Ready
    fragment: FragmentMessage
    evaluation: EvaluationResult
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., fragment: _Optional[_Union[FragmentMessage, _Mapping]] = ..., evaluation: _Optional[_Union[EvaluationResult, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "actor_index", "attempt", "schema", "incarnation", "begun")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    actor_index: int
    attempt: int
    schema: Schema
    incarnation: int
    begun: bool
    def __init__(self, protocol_version: _Optional[int] = ..., actor_index: _Optional[int] = ..., attempt: _Optional[int] = ..., schema: _Optional[_Union[Schema, _Mapping]] = ..., incarnation: _Optional[int] = ..., begun: _Optional[bool] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FragmentMessage(_message.Message):
    __slots__ = ("epoch", "ticket", "tensors", "digest")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    ticket: int
    tensors: bytes
    digest: int
    def __init__(self, epoch: _Optional[int] = ..., ticket: _Optional[int] = ..., tensors: _Optional[bytes] = ..., digest: _Optional[int] = ...) -> None: ...

class EvaluationResult(_message.Message):
    __slots__ = ("version", "returns", "lengths")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RETURNS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    version: int
    returns: _containers.RepeatedScalarFieldContainer[float]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., returns: _Optional[_Iterable[float]] = ..., lengths: _Optional[_Iterable[int]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("welcome", "ticket", "ack", "evaluate", "drain", "refused")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    ticket: Ticket
    ack: Ack
    evaluate: Evaluate
    drain: Drain
    refused: Refused
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., evaluate: _Optional[_Union[Evaluate, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("epoch", "protocol_version", "notice")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    protocol_version: int
    notice: str
    def __init__(self, epoch: _Optional[int] = ..., protocol_version: _Optional[int] = ..., notice: _Optional[str] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("id", "policy_version", "exact", "reset_seed", "weights_digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    RESET_SEED_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    policy_version: int
    exact: bool
    reset_seed: int
    weights_digest: bytes
    def __init__(self, id: _Optional[int] = ..., policy_version: _Optional[int] = ..., exact: _Optional[bool] = ..., reset_seed: _Optional[int] = ..., weights_digest: _Optional[bytes] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("ticket", "accepted", "reason")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ticket: int
    accepted: bool
    reason: str
    def __init__(self, ticket: _Optional[int] = ..., accepted: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class Evaluate(_message.Message):
    __slots__ = ("version", "episodes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    version: int
    episodes: int
    def __init__(self, version: _Optional[int] = ..., episodes: _Optional[int] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason", "fenced")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    fenced: bool
    def __init__(self, reason: _Optional[str] = ..., fenced: _Optional[bool] = ...) -> None: ...

class WeightsRequest(_message.Message):
    __slots__ = ("version", "offset", "known_digest", "inline")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    KNOWN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    version: int
    offset: int
    known_digest: bytes
    inline: bool
    def __init__(self, version: _Optional[int] = ..., offset: _Optional[int] = ..., known_digest: _Optional[bytes] = ..., inline: _Optional[bool] = ...) -> None: ...

class WeightsInfo(_message.Message):
    __slots__ = ("version", "size", "digest", "unchanged", "path")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    version: int
    size: int
    digest: bytes
    unchanged: bool
    path: str
    def __init__(self, version: _Optional[int] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ..., unchanged: _Optional[bool] = ..., path: _Optional[str] = ...) -> None: ...

class WeightsChunk(_message.Message):
    __slots__ = ("info", "data")
    INFO_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    info: WeightsInfo
    data: bytes
    def __init__(self, info: _Optional[_Union[WeightsInfo, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class LedgerMessage(_message.Message):
    __slots__ = ("produced", "trained", "dropped", "queued", "in_flight")
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PRODUCED_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    produced: int
    trained: int
    dropped: _containers.ScalarMap[str, int]
    queued: int
    in_flight: int
    def __init__(self, produced: _Optional[int] = ..., trained: _Optional[int] = ..., dropped: _Optional[_Mapping[str, int]] = ..., queued: _Optional[int] = ..., in_flight: _Optional[int] = ...) -> None: ...

class HeldBatch(_message.Message):
    __slots__ = ("batch_id", "fragments", "version")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    fragments: int
    version: int
    def __init__(self, batch_id: _Optional[int] = ..., fragments: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class LearnerHelloRequest(_message.Message):
    __slots__ = ("protocol_version", "attempt", "version", "schema", "ledger", "held", "incarnation")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    attempt: int
    version: int
    schema: Schema
    ledger: LedgerMessage
    held: _containers.RepeatedCompositeFieldContainer[HeldBatch]
    incarnation: int
    def __init__(self, protocol_version: _Optional[int] = ..., attempt: _Optional[int] = ..., version: _Optional[int] = ..., schema: _Optional[_Union[Schema, _Mapping]] = ..., ledger: _Optional[_Union[LedgerMessage, _Mapping]] = ..., held: _Optional[_Iterable[_Union[HeldBatch, _Mapping]]] = ..., incarnation: _Optional[int] = ...) -> None: ...

class LearnerHelloReply(_message.Message):
    __slots__ = ("epoch", "protocol_version", "weights_wanted", "ledger")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_WANTED_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    protocol_version: int
    weights_wanted: bool
    ledger: LedgerMessage
    def __init__(self, epoch: _Optional[int] = ..., protocol_version: _Optional[int] = ..., weights_wanted: _Optional[bool] = ..., ledger: _Optional[_Union[LedgerMessage, _Mapping]] = ...) -> None: ...

class PublishHeader(_message.Message):
    __slots__ = ("attempt", "version", "digest", "size", "evaluate_episodes", "reset_environments", "incarnation")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_EPISODES_FIELD_NUMBER: _ClassVar[int]
    RESET_ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    version: int
    digest: bytes
    size: int
    evaluate_episodes: int
    reset_environments: bool
    incarnation: int
    def __init__(self, attempt: _Optional[int] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., size: _Optional[int] = ..., evaluate_episodes: _Optional[int] = ..., reset_environments: _Optional[bool] = ..., incarnation: _Optional[int] = ...) -> None: ...

class PublishChunk(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: PublishHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[PublishHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PublishReply(_message.Message):
    __slots__ = ("ledger",)
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    ledger: LedgerMessage
    def __init__(self, ledger: _Optional[_Union[LedgerMessage, _Mapping]] = ...) -> None: ...

class NextBatchRequest(_message.Message):
    __slots__ = ("attempt", "wait_seconds", "held", "evaluations_only", "evaluations_seen", "incarnation")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_ONLY_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_SEEN_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    wait_seconds: float
    held: _containers.RepeatedScalarFieldContainer[int]
    evaluations_only: bool
    evaluations_seen: int
    incarnation: int
    def __init__(self, attempt: _Optional[int] = ..., wait_seconds: _Optional[float] = ..., held: _Optional[_Iterable[int]] = ..., evaluations_only: _Optional[bool] = ..., evaluations_seen: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("number", "result")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    number: int
    result: EvaluationResult
    def __init__(self, number: _Optional[int] = ..., result: _Optional[_Union[EvaluationResult, _Mapping]] = ...) -> None: ...

class NextBatchReply(_message.Message):
    __slots__ = ("batch_id", "version", "fragments", "tickets", "ledger", "evaluations")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    version: int
    fragments: _containers.RepeatedScalarFieldContainer[bytes]
    tickets: _containers.RepeatedScalarFieldContainer[int]
    ledger: LedgerMessage
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    def __init__(self, batch_id: _Optional[int] = ..., version: _Optional[int] = ..., fragments: _Optional[_Iterable[bytes]] = ..., tickets: _Optional[_Iterable[int]] = ..., ledger: _Optional[_Union[LedgerMessage, _Mapping]] = ..., evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ...) -> None: ...

class ConsumedRequest(_message.Message):
    __slots__ = ("attempt", "batch_id", "outcome", "version", "incarnation")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    batch_id: int
    outcome: str
    version: int
    incarnation: int
    def __init__(self, attempt: _Optional[int] = ..., batch_id: _Optional[int] = ..., outcome: _Optional[str] = ..., version: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class ConsumedReply(_message.Message):
    __slots__ = ("ledger",)
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    ledger: LedgerMessage
    def __init__(self, ledger: _Optional[_Union[LedgerMessage, _Mapping]] = ...) -> None: ...

class PaceRequest(_message.Message):
    __slots__ = ("attempt", "eta", "incarnation")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    eta: int
    incarnation: int
    def __init__(self, attempt: _Optional[int] = ..., eta: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class PaceReply(_message.Message):
    __slots__ = ("eta",)
    ETA_FIELD_NUMBER: _ClassVar[int]
    eta: int
    def __init__(self, eta: _Optional[int] = ...) -> None: ...

class FinishRequest(_message.Message):
    __slots__ = ("attempt", "incarnation")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    incarnation: int
    def __init__(self, attempt: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class FinishReply(_message.Message):
    __slots__ = ("ledger",)
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    ledger: LedgerMessage
    def __init__(self, ledger: _Optional[_Union[LedgerMessage, _Mapping]] = ...) -> None: ...
