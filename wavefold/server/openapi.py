"""/openapi.json, made of the pydantic models that bodies are checked with. `docs_page` shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from wavefold import __version__
from wavefold.server.protocol import Protocol

ERRORS = {400: "The request is wrong: `message` says what, `param` where.", 401: "The API key is missing or wrong.",
          403: "Host or Origin is another site's.", 404: "No such model, or no such path.",
          408: "The body did not come in time.", 413: "The body is too large.",
          429: "The queue is full; Retry-After says when to come again.", 500: "An error of the server.",
          503: "The server is shutting down, or has no room for the body."}  # fmt: skip

PREFIX = "#/components/schemas/"


def openapi(
    protocols: Mapping[str, Protocol],
    counts: Mapping[str, type[BaseModel]],
    name: str,
    others: Mapping[str, type[BaseModel]] = {},
) -> dict[str, Any]:
    """Returns the description of the API. `counts`: paths that count tokens, with the bodies that they take.

    `others`: further ones, which the docstrings of their bodies describe.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    summaries = {path: (protocol.__doc__ or path).strip().splitlines()[0] for path, protocol in protocols.items()}
    summaries |= {path: (model.__doc__ or path).strip().splitlines()[0] for path, model in others.items()}
    for path, model in {**{path: one.model_body for path, one in protocols.items()}, **counts, **others}.items():
        body, summary = _component(model, schemas), summaries.get(path, "Counts tokens.")
        paths[path] = {"post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": body}}}},
            "responses": _responses(400, 401, 403, 404, 408, 413, 429, 500, 503),
        }}  # fmt: skip
    for path, summary in (("/v1/models", "The models that are served."), ("/health", "Whether the server answers."),
                          ("/metrics", "Counts, in Prometheus' text format.")):  # fmt: skip
        paths[path] = {"get": {"summary": summary, "responses": _responses(400, 401, 403, 503)}}
    parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    paths["/v1/models/{model}"] = {
        "get": {"summary": "One of them.", "parameters": [parameter], "responses": _responses(401, 403, 404)}
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Wavefold: {name}", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _component(model: type[BaseModel], schemas: dict[str, Any]) -> str:
    """Adds a model's schema and those that it refers to. Returns a reference to it.

    Protocols have objects of one name whose fields differ; a later one is named with its body's name behind its own.
    """
    schema = model.model_json_schema(ref_template=PREFIX + "{model}")
    found = {**schema.pop("$defs", {}), model.__name__: schema}
    while others := [name for name, one in found.items() if schemas.get(name, one) != one]:
        names = {name: _free_name(name, found[name], model, schemas) for name in others}
        text = json.dumps(found)
        for name, new in names.items():
            text = text.replace(json.dumps(PREFIX + name), json.dumps(PREFIX + new))
        found = {names.get(name, name): one for name, one in json.loads(text).items()}
    schemas.update(found)
    return PREFIX + model.__name__


def _free_name(name: str, schema: Any, model: type[BaseModel], schemas: Mapping[str, Any]) -> str:
    """Returns another name for a schema: that of an equal one, else a new one."""
    equals = (one for one, known in schemas.items() if one.startswith(f"{name}Of") and known == schema)
    return next(equals, f"{name}Of{model.__name__}")


def _responses(*statuses: int) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "The answer."}}
    for status in statuses:
        responses[str(status)] = {
            "description": ERRORS[status], "content": {"application/json": {"schema": {"type": "object"}}}
        }  # fmt: skip
    return responses


def name_of(reference: str) -> str:
    """Returns the name of the schema that a reference leads to."""
    return reference.rsplit("/", 1)[1]
