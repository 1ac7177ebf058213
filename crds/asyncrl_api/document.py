"""YAML text to a plain document and back, read as kubectl reads it.

PyYAML alone differs from Kubernetes' reader: it takes 5e-3 for text, 1:30 for 90, 2026-01-01 for a
date, and keeps the last of two equal keys. Here the document is what the API server would get.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from asyncrl_api.errors import ManifestError, Problem

MAXIMUM_BYTES = 1_048_576
"""Largest manifest read; etcd holds no larger object either."""

MAXIMUM_NODES = 50_000
"""Most values of a manifest once its aliases are expanded."""

Document = dict[str, Any]

_BOOLEAN = re.compile(
    r"^(?:y|Y|yes|Yes|YES|on|On|ON|true|True|TRUE|n|N|no|No|NO|off|Off|OFF|false|False|FALSE)$"
)
_TRUE = {"y", "yes", "on", "true"}
_INTEGER = re.compile(r"^[-+]?(?:0b[01]+|0o?[0-7]+|0x[0-9a-fA-F]+|0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_RESOLVERS = (
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", _BOOLEAN, list("yYnNtTfFoO")),
    ("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789.")),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"]),
)


class _Refused(yaml.MarkedYAMLError):
    """YAML that no Kubernetes object can hold."""


class _Loader(yaml.SafeLoader):
    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        return node.value.lower() in _TRUE

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(node.value).replace("_", "")
        sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
        octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
        return sign * (int(digits, 8) if octal else int(digits, 0))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(str(node.value).lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.Mark] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                kind = key.tag.rpartition(":")[2]
                shown = key.value if isinstance(key, yaml.ScalarNode) else "this"
                problem = f"key {shown} is {kind}, not text; put it in quotes"
                raise _Refused(None, None, problem, key.start_mark)
            if key.value in first:
                line = first[key.value].line + 1
                problem = f"key '{key.value}' is there twice, first in line {line}; keep one"
                raise _Refused(None, None, problem, key.start_mark)
            first[key.value] = key.start_mark
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # A text of several lines as people write one, where YAML can hold it so.
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.construct_yaml_bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_text(path: Path) -> str:
    """The text of a manifest file. Raises ManifestError naming the file and the remedy."""
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_BYTES + 1)
    except FileNotFoundError:
        raise _error(str(path), "there is no such file; check the path") from None
    except IsADirectoryError:
        raise _error(str(path), "is a folder; name a manifest file in it") from None
    except OSError as error:
        raise _error(str(path), f"cannot be read: {error.strerror}; check it") from None
    if len(data) > MAXIMUM_BYTES:
        raise _error(str(path), f"is larger than {MAXIMUM_BYTES} bytes; a manifest is a short text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"{path}:{data[: error.start].count(10) + 1}"
        raise _error(place, "is not UTF-8 text; save the manifest as UTF-8") from None


def parse_documents(text: str, name: str = "manifest") -> list[Any]:
    """All YAML documents of a text that are not empty, as plain values.

    Raises ManifestError with `name:line:column` for wrong syntax, equal keys and keys that are not
    text, and for aliases that expand without bound.
    """
    try:
        documents = [d for d in yaml.load_all(text, Loader=_Loader) if d is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = str(error.problem or error.context)
        if not isinstance(error, _Refused):
            problem = f"wrong YAML: {problem}"
            problem += f" {error.context}" if error.context and error.problem else ""
            problem += "; " + _syntax_remedy(problem)
        raise _error(place, " ".join(problem.split())) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        summary = " ".join(str(error).split())
        raise _error(name, f"wrong YAML: {summary}; correct the text") from None
    for document in documents:
        _refuse_bombs(document, name)
    return documents


def parse_value(text: str, name: str) -> Any:
    """One YAML value, such as `4`, `5e-3`, `[64, 64]` or `true`; empty text is null."""
    documents = parse_documents(text, name)
    if len(documents) > 1:
        raise _error(name, "is more than one YAML document; give one value")
    return documents[0] if documents else None


def dump_document(document: Document) -> str:
    """The document as YAML, such that kubectl and `parse_documents` read the same document."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def show(value: Any) -> str:
    """A value in an error message: as YAML, on one line, at most 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else (".inf" if value > 0 else "-.inf")
    text = f"{value!r}" if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _syntax_remedy(problem: str) -> str:
    if "\\t" in problem:
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "check the indentation, and put a space after ':' and quotes around text with ': '"
    return "check indentation, quotes and brackets here"


def _refuse_bombs(document: Any, name: str) -> None:
    remaining = MAXIMUM_NODES
    stack = [document]
    while stack:
        value = stack.pop()
        remaining -= 1
        if remaining < 0:
            raise _error(
                name, f"has more than {MAXIMUM_NODES} values with its aliases; write it without"
            )
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _error(path: str, message: str) -> ManifestError:
    return ManifestError([Problem(path, message)])
