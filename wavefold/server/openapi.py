"""/openapi.json, made of the pydantic models that bodies are checked with, and /docs, a page of it without scripts."""

from __future__ import annotations

import html
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
    """Adds a model's schema and those that it refers to. Returns a reference to it."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
    return f"#/components/schemas/{model.__name__}"


def _responses(*statuses: int) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "The answer."}}
    for status in statuses:
        responses[str(status)] = {
            "description": ERRORS[status], "content": {"application/json": {"schema": {"type": "object"}}}
        }  # fmt: skip
    return responses


def docs_page(description: Mapping[str, Any]) -> str:
    """Returns a page that says what is in the description of the API."""
    schemas = description["components"]["schemas"]
    parts = [f"<h1>{html.escape(description['info']['title'])}</h1>",
             "<p>The same for programs: <a href='/openapi.json'>/openapi.json</a>.</p>"]  # fmt: skip
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                parts.append(_table(schemas[reference.rsplit("/", 1)[1]]))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Wavefold: API</title>"
        "<meta name='viewport' content='width=device-width'><style>body{font-family:sans-serif;max-width:70rem;"
        "margin:auto;padding:1rem}td{vertical-align:top;padding:.2rem .6rem}code{overflow-wrap:anywhere}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>"
    )


def _table(schema: Mapping[str, Any]) -> str:
    rows = []
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        note = " (required)" if name in required else ""
        kind = {key: value for key, value in field.items() if key not in ("title", "description", "default")}
        rows.append(f"<tr><td><code>{html.escape(name)}</code>{note}</td>"
                    f"<td>{html.escape(field.get('description', ''))}</td>"
                    f"<td><code>{html.escape(json.dumps(kind)[:300])}</code></td></tr>")  # fmt: skip
    return f"<table>{''.join(rows)}</table>"
