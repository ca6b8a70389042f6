"""The page /docs: the addresses of the HTTP API as HTML, without scripts, from the OpenAPI description."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: HTTP API</title>
<meta name="viewport" content="width=device-width"><h1>{title} {version}: HTTP API</h1>
<p>The description for programs is <a href="/openapi.json">/openapi.json</a>. Errors have a status of 4xx or 5xx and the
content <code>{{"error": "what to do", "argument": name or null}}</code>.</p><dl>"""


def api_page(description: Mapping[str, Any]) -> str:
    """Returns the HTML page of an OpenAPI description."""
    info = {name: escape(description["info"][name]) for name in ("title", "version")}
    lines = [_HEAD.format(**info)]
    for path, methods in description["paths"].items():
        for method, about in methods.items():
            lines.append(f"<dt><code>{method.upper()} {escape(path)}</code></dt>")
            lines.append(f"<dd>{escape(about.get('summary', ''))}{_body(about, description)}</dd>")
    return "\n".join([*lines, "</dl></html>"])


def _body(about: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    content = about.get("requestBody", {}).get("content", {})
    parts = []
    for kind, media in content.items():
        name = media["schema"].get("$ref", "").rsplit("/", 1)[-1]
        schema = description["components"]["schemas"].get(name, {})
        required = schema.get("required", [])
        fields = [f"{field}{'' if field in required else ' (optional)'}" for field in schema.get("properties", {})]
        parts.append(f"<br><code>{escape(kind)}</code>: {escape(', '.join(fields))}")
    return "".join(parts)
