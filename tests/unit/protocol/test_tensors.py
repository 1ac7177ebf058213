"""Encoding and decoding of tensors: exact, compatible, and unmoved by any bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from asyncrl_worker.protocol.errors import MalformedMessage
from asyncrl_worker.protocol.tensors import HEADER_LIMIT, decode, encode

LIMIT = 1 << 20

DTYPES = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "u1", "?"])

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name != "__metadata__")

TENSORS = st.dictionaries(
    NAMES,
    DTYPES.flatmap(
        lambda dtype: arrays.arrays(
            np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
        )
    ),
    max_size=5,
)


def same(left: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


@given(TENSORS)
def test_decoding_gives_back_exactly_what_was_encoded(tensors: dict[str, NDArray[Any]]) -> None:
    assert same(decode(encode(tensors), LIMIT), tensors)


@given(TENSORS)
def test_the_safetensors_library_reads_what_we_write(tensors: dict[str, NDArray[Any]]) -> None:
    assert same(safetensors.numpy.load(encode(tensors)), tensors)


@given(TENSORS)
def test_we_read_what_the_safetensors_library_writes(tensors: dict[str, NDArray[Any]]) -> None:
    assert same(decode(safetensors.numpy.save(tensors), LIMIT), tensors)


def test_encoding_is_deterministic_contiguous_and_aligned() -> None:
    tensors = {
        "flag": np.array([True, False, True]),
        "wide": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "big": np.array([1, 2], dtype=">i8"),
    }
    data = encode(tensors)
    assert data == encode(dict(reversed(tensors.items())))
    decoded = decode(data, LIMIT)
    assert np.array_equal(decoded["wide"], tensors["wide"])
    assert np.array_equal(decoded["big"], [1, 2])
    assert all(array.flags.aligned and not array.flags.writeable for array in decoded.values())


def test_decoding_copies_nothing() -> None:
    data = encode({"a": np.arange(1000, dtype=np.float32)})
    array = decode(memoryview(data), LIMIT)["a"]
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_metadata_of_other_writers_is_ignored() -> None:
    data = safetensors.numpy.save({"a": np.ones(2, np.float32)}, metadata={"format": "pt"})
    assert list(decode(data, LIMIT)) == ["a"]


@pytest.mark.parametrize("dtype", ["complex64", "O", "U3", "uint16"])
def test_other_dtypes_cannot_be_encoded(dtype: str) -> None:
    with pytest.raises(TypeError, match="tensor 'a'"):
        encode({"a": np.zeros(2, dtype=dtype)})


def survives(data: bytes) -> None:
    """Decoding ends in arrays that fit the data, or in MalformedMessage; never in anything else."""
    try:
        decoded = decode(data, LIMIT)
    except MalformedMessage as error:
        assert "\n" not in str(error)
        return
    assert sum(array.nbytes for array in decoded.values()) <= len(data)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_malformed_or_decoded(data: bytes) -> None:
    survives(data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F32", "I64", "BOOL", 0, 4, -1, 2**63, 2**64]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]),
            children,
            max_size=4,
        )
    ),
    max_leaves=12,
)

ENTRIES = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "I64", "BOOL", "BF16", 3]),
            "shape": st.lists(st.sampled_from([0, 1, 2, 2**40, -1, 1.0, True]), max_size=3),
            "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, -4, 2**64]), max_size=3),
        }
    ),
)


@settings(max_examples=400)
@given(header=JSON | ENTRIES, body=st.binary(max_size=32))
def test_any_header_is_malformed_or_decoded(header: object, body: bytes) -> None:
    text = json.dumps(header).encode()
    survives(len(text).to_bytes(8, "little") + text + body)


FRAGMENT = encode(
    {
        "observations": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "valid": np.ones((2, 3), dtype=bool),
        "policy_versions": np.array([3, 4]),
    }
)


@given(st.integers(0, len(FRAGMENT) - 1))
def test_every_truncation_is_malformed(length: int) -> None:
    with pytest.raises(MalformedMessage):
        decode(FRAGMENT[:length], LIMIT)


@given(st.binary(min_size=1, max_size=20))
def test_bytes_after_the_end_are_malformed(tail: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(FRAGMENT + tail, LIMIT)


@settings(max_examples=400)
@given(st.lists(st.integers(0, 8 * len(FRAGMENT) - 1), min_size=1, max_size=4))
def test_bit_flips_are_malformed_or_decoded(flips: list[int]) -> None:
    data = bytearray(FRAGMENT)
    for flip in flips:
        data[flip // 8] ^= 1 << (flip % 8)
    survives(bytes(data))


def packed(header: str | bytes, body: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too few"),
        ((HEADER_LIMIT + 1).to_bytes(8, "little") + bytes(HEADER_LIMIT + 1), "header length"),
        ((2**63).to_bytes(8, "little") + b"{}", "header length"),
        (packed("[]"), "not a JSON object"),
        (packed("{" + "[" * 100_000), "not valid JSON"),
        (packed(b'{"\xff": 1}'), "not valid JSON"),
        (packed('{"a": ' + "9" * 5000 + "}"), "not valid JSON"),
        (
            packed('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":1}', bytes(4)),
            "not valid JSON",
        ),
        (packed('{"a": 1}'), "expected dtype"),
        (packed('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}'), "expected dtype"),
        (packed('{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', bytes(2)), "dtype"),
        (packed('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)), "shape"),
        (packed('{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)), "shape"),
        (packed('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', bytes(4)), "disagree"),
        (packed('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)), "gap"),
        (packed('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(3)), "outside"),
        (packed('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(5)), "after the"),
        (
            packed('{"a":{"dtype":"F32","shape":[0,9999999999999],"data_offsets":[0,0]}}'),
            "dimension",
        ),
        (
            packed(
                '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                '"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                bytes(4),
            ),
            "gap or overlap",
        ),
        (packed('{"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}', b"\x02"), "bool"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        decode(data, 1 << 24)


def test_the_limit_comes_before_anything_else() -> None:
    with pytest.raises(MalformedMessage, match="exceed the limit of 10"):
        decode(FRAGMENT, 10)
