"""What OpenAPI says of bodies that are pictures: a form with files, or one image as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FILES: dict[str, Any] = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": 64}


def picture_body(
    options: Mapping[str, Any],
    examples: Mapping[str, Any],
    *,
    required: tuple[str, ...] = (),
    without_files: bool = False,
) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes pictures.

    Args:
        options: The other fields of the form, which are query parameters beside a raw image: name -> schema.
        examples: Of forms.
        required: Fields that must be there.
        without_files: Whether it makes sense with no picture at all, so that the form may be url-encoded.
    """
    files = FILES if without_files else FILES | {"minItems": 1}
    form = {"type": "object", "properties": {"images": files, **options}}
    content: dict[str, Any] = {
        "multipart/form-data": {
            "schema": form | ({"required": list(required)} if required else {}),
            "examples": dict(examples),
        }
    }
    if without_files:
        schema = {"type": "object", "properties": dict(options)}
        content["application/x-www-form-urlencoded"] = {"schema": schema}
    content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    in_query = {**options, "filename": {"type": "string", "maxLength": 255}}
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema, "description": "With a raw image body."}
            for name, schema in in_query.items()
        ],
    }
