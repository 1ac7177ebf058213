"""Quantities of resources as Kubernetes writes them: 2, 500m, 2Gi."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

QUANTITY_ERROR = "quantity"
QUANTITY_PATTERN = (
    r"^[+-]?([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
)


def _quantity(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(QUANTITY_PATTERN, value):
        return value
    raise PydanticCustomError(
        QUANTITY_ERROR, "is no Kubernetes quantity; use an integer or text such as 500m or 2Gi"
    )


Quantity = Annotated[int | str, PlainValidator(_quantity)]
