"""Examples for the OpenAPI document: those that the schemas give, put together where a body has none of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

FILE = "(the file)"
_BY_TYPE: Mapping[str, Any] = {"string": "text", "integer": 1, "number": 0.5, "boolean": True, "null": None}
_BY_FORMAT = {"date-time": "2026-11-23T22:14:05.120Z", "binary": FILE}


def example_of(schema: Schema, components: Schema) -> Any:
    """A value that a schema accepts, from the examples it holds.

    Args:
        schema: Of a body, or a part of one.
        components: What `$ref` names, by name.
    """
    if "$ref" in schema:
        return example_of(components[schema["$ref"].rpartition("/")[2]], components)
    if "example" in schema:
        return schema["example"]
    if schema.get("examples"):
        return schema["examples"][0]
    for given in ("default", "const"):
        if given in schema:
            return schema[given]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return example_of(schema[choice][0], components)
    if schema.get("type") == "array":
        return [example_of(schema["items"], components)]
    if schema.get("type") == "object" or "properties" in schema:
        return {name: example_of(one, components) for name, one in schema.get("properties", {}).items()}
    return _BY_FORMAT.get(schema.get("format", ""), _BY_TYPE.get(schema.get("type", ""), {}))


def form_example(schema: Schema, components: Schema) -> dict[str, Any]:
    """The fields of a form that must be there, and those that say what they may be."""
    required = set(schema.get("required", ()))
    return {
        name: example_of(one, components)
        for name, one in schema.get("properties", {}).items()
        if name in required or one.get("format") == "binary" or "examples" in one
    }


def is_binary(content: Schema) -> bool:
    """Whether a body is the bytes of a file and nothing else."""
    return bool(content.get("schema", {}).get("format") == "binary")


def has_example(content: Schema, components: Schema) -> bool:
    """Whether a body has an example of its own, in the document or in the schema it names."""
    schema = content.get("schema", {})
    named = components.get(schema.get("$ref", "").rpartition("/")[2], {})
    return any("example" in one or "examples" in one for one in (content, schema, named))


def with_nulls(value: Any, schema: Schema, components: Schema) -> Any:
    """An example with the fields that are null: the framework leaves them out of the document it makes.

    Args:
        value: The example without them.
        schema: What it is an example of.
        components: What `$ref` names, by name.
    """
    schema = _resolved(schema, components)
    for choice in schema.get("anyOf", ()):
        if _fits(value, _resolved(choice, components)):
            return with_nulls(value, choice, components)
    if isinstance(value, list) and "items" in schema:
        return [with_nulls(one, schema["items"], components) for one in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    found = {name: with_nulls(one, known.get(name, {}), components) for name, one in value.items()}
    missing = [name for name in schema.get("required", ()) if name not in value and _may_be_null(known[name])]
    return found | dict.fromkeys(missing)


def _resolved(schema: Schema, components: Schema) -> Schema:
    found: Schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _fits(value: Any, schema: Schema) -> bool:
    kind = schema.get("type")
    return (kind == "object" and isinstance(value, dict)) or (kind == "array" and isinstance(value, list))


def _may_be_null(schema: Schema) -> bool:
    return {"type": "null"} in schema.get("anyOf", ())
