"""A fake of S3 on loopback: one bucket, with just the four calls that an upload makes.

It knows PUT and GET of an object and ListObjectsV2 with pages of PAGE keys, over path-style URLs;
it doesn't check signatures.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Dict, List, Optional, Tuple, Type
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 4


class Bucket:
    """Serves `name` at `url` as a context manager; `objects` by key, `calls` in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects: Dict[str, bytes] = {}
        self.types: Dict[str, str] = {}
        self.calls: List[Tuple[str, str]] = []
        self.refuses = ""  # an error code of S3 for every call
        self.breaks_after: Optional[int] = None  # answers no PUT after so many
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Calls", (_Calls,), {"bucket": self})
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def puts(self) -> List[str]:
        return [key for call, key in self.calls if call == "PUT"]

    def __enter__(self) -> Bucket:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Calls(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        key = self._key()
        if key is None:
            return
        self.bucket.calls.append(("GET", key))
        if not key:
            self._list(parse_qs(urlsplit(self.path).query))
        elif key in self.bucket.objects:
            self._answer(200, self.bucket.objects[key])
        else:
            self._error(404, "NoSuchKey")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        key = self._key()
        if key is None:
            return
        if self.bucket.breaks_after == len(self.bucket.puts()):
            self._error(403, "AccessDenied")
            return
        assert "aws-chunked" not in self.headers.get("Content-Encoding", "")
        self.bucket.calls.append(("PUT", key))
        self.bucket.objects[key] = content
        self.bucket.types[key] = self.headers["Content-Type"]
        self._answer(200, b"")

    def _key(self) -> Optional[str]:
        """Return the object's key; answer with an error when there is none to be had."""
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if self.bucket.refuses:
            self._error(403, self.bucket.refuses)
            return None
        if bucket != self.bucket.name:
            self._error(404, "NoSuchBucket")
            return None
        return key

    def _list(self, query: Dict[str, List[str]]) -> None:
        (prefix,) = query.get("prefix", [""])
        start = query.get("continuation-token", [""])[0]
        keys = sorted(key for key in self.bucket.objects if key.startswith(prefix) and key > start)
        page = keys[:PAGE]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.bucket.objects[key])}</Size></Contents>"
            for key in page
        )
        more = len(keys) > PAGE
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}"
            "</ListBucketResult>".encode(),
        )

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
