"""The least a server of this kind can do: Starlette answers the same bytes to every request."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

ANSWER = json.dumps({"ModelDescription": {"StatusMessage": "x" * 400}}).encode()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, whatever it is."""
    await Request(scope, receive).body()
    await Response(ANSWER, media_type="application/json")(scope, receive, send)
