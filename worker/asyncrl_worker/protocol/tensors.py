"""Named numpy arrays as safetensors bytes, and back, trusting nothing.

The format (huggingface/safetensors): 8 bytes little-endian header length, a JSON header
``{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}``, then the data. What is
written here is read by the safetensors library and the other way round. The decoder is our own
because it faces the network: every length is checked before it is used, arrays must tile the data
exactly, and the only error it can raise is MalformedMessage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyncrl_worker.protocol.errors import MalformedMessage

Array = NDArray[Any]

HEADER_LIMIT = 1 << 20
"""Longest accepted JSON header in bytes; a fragment's is under 2 kB."""

DIMENSIONS_LIMIT = 8

ELEMENTS_LIMIT = 1 << 40
"""Largest product of the dimensions that are not zero."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode(tensors: Mapping[str, Array]) -> bytes:
    """The safetensors bytes of `tensors`; the same arrays always give the same bytes.

    Raises TypeError for a dtype the protocol does not carry.
    """
    # Wide dtypes first keeps every array aligned to its own item size, as the library does.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, dict[str, Any]] = {}
    parts: list[Any] = [b"", b""]
    offset = 0
    for name, array in ordered:
        dtype = _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise TypeError(f"tensor {name!r}: dtype {array.dtype} is not one of {list(_DTYPES)}")
        flat = np.ascontiguousarray(array, dtype=_DTYPES[dtype])
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + flat.nbytes],
        }
        parts.append(flat.reshape(-1).view(np.uint8).data)
        offset += flat.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts[0] = len(text).to_bytes(8, "little")
    parts[1] = text
    return b"".join(parts)


def decode(data: bytes | memoryview, limit: int) -> dict[str, Array]:
    """The arrays in `data`, as read-only views without a copy.

    `limit` bounds the size in bytes. Raises MalformedMessage, and nothing else, for anything that
    is not exactly one well-formed file.
    """
    size = len(data)
    if size > limit:
        raise MalformedMessage(f"tensors: {size} bytes exceed the limit of {limit}")
    if size < 8:
        raise MalformedMessage(f"tensors: {size} bytes are too few for a header")
    length = int.from_bytes(data[:8], "little")
    if length > min(HEADER_LIMIT, size - 8):
        raise MalformedMessage(f"tensors: header length {length} exceeds the message or the limit")
    entries = _header(bytes(data[8 : 8 + length]))
    start = 8 + length
    body = size - start
    arrays: dict[str, Array] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _entry(name, entry, body)
        view = np.frombuffer(data, dtype=np.uint8, count=end - begin, offset=start + begin)
        if dtype == np.bool_ and view.size and int(view.max()) > 1:
            raise MalformedMessage(f"tensor {name!a}: a bool is neither 0 nor 1")
        array = view.view(dtype).reshape(shape)
        array.flags.writeable = False
        arrays[name] = array
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise MalformedMessage(f"tensors: gap or overlap at byte {position} of the data")
        position = end
    if position != body:
        raise MalformedMessage(f"tensors: {body - position} bytes after the last tensor")
    return arrays


def _header(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise MalformedMessage("tensors: the header is not a JSON object")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"tensors: the header is not valid JSON: {error!a:.80}") from None
    if not isinstance(header, dict):
        raise MalformedMessage("tensors: the header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _entry(name: str, entry: Any, body: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedMessage(f"tensor {name!a}: expected dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise MalformedMessage(f"tensor {name!a}: unknown dtype {str(kind)!a:.40}")
    if not _naturals(shape) or len(shape) > DIMENSIONS_LIMIT:
        raise MalformedMessage(f"tensor {name!a}: bad shape")
    if not _naturals(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= body:
        raise MalformedMessage(f"tensor {name!a}: data_offsets outside the data")
    # An empty array may hide absurd dimensions behind a zero; numpy would not take them.
    if math.prod(max(size, 1) for size in shape) > ELEMENTS_LIMIT:
        raise MalformedMessage(f"tensor {name!a}: a dimension is too large")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise MalformedMessage(f"tensor {name!a}: shape and data_offsets disagree")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(value: Any) -> bool:
    # `type is int`: JSON true is an int to isinstance.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
