"""What the API server does with a structural schema, for the tests of the CRD."""

from typing import Any

Schema = dict[str, Any]

KEYWORDS = {
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}
"""Keywords that the CRD may use: no $ref, allOf, oneOf or not."""


def below(schema: Schema) -> dict[str, Schema]:
    """The schemas of everything right below one."""
    schemas = {f".{name}": child for name, child in schema.get("properties", {}).items()}
    if "items" in schema:
        schemas["[]"] = schema["items"]
    if isinstance(schema.get("additionalProperties"), dict):
        schemas["{}"] = schema["additionalProperties"]
    return schemas


def walk(schema: Schema, path: str = "") -> list[tuple[str, Schema]]:
    """Every schema with its path."""
    found = [(path, schema)]
    for name, child in below(schema).items():
        found += walk(child, path + name)
    return found


def with_defaults(schema: Schema, value: Any) -> Any:
    """The value as the API server stores it: nulls pruned where not nullable, then defaults."""
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], element) for element in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    properties = schema["properties"]
    stored = {
        name: content
        for name, content in value.items()
        if content is not None or properties.get(name, {}).get("nullable", False)
    }
    for name, child in properties.items():
        if name not in stored and "default" in child:
            stored[name] = child["default"]
        if name in stored:
            stored[name] = with_defaults(child, stored[name])
    return stored


def json_schema(schema: Schema, *, closed: bool = False) -> Schema:
    """The same schema for a JSON Schema validator of draft 4, whose exclusive bounds are booleans.

    `closed` refuses unknown fields, as kubectl's strict field validation does.
    """
    plain = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if plain.pop("nullable", False):
        plain["type"] = [plain["type"], "null"]
    if "properties" in plain:
        plain["properties"] = {
            name: json_schema(child, closed=closed) for name, child in plain["properties"].items()
        }
        plain["additionalProperties"] = not closed
    if "items" in plain:
        plain["items"] = json_schema(plain["items"], closed=closed)
    if isinstance(plain.get("additionalProperties"), dict):
        plain["additionalProperties"] = json_schema(plain["additionalProperties"], closed=closed)
    return plain
