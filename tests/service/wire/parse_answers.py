"""Run by the Python of `.venv-aws`: parses answers as the original client does, with its own model.

Reads a JSON list of [operation, status, headers, body in base64], writes what the client's parser
makes of each. Times become seconds, blobs base64.
"""

from __future__ import annotations

import base64
import json
import sys

import botocore.loaders
import botocore.model
import botocore.parsers
from botocore.compat import HTTPHeaders

description = botocore.loaders.Loader().load_service_model("lookoutvision", "service-2")
model = botocore.model.ServiceModel(description)
parser = botocore.parsers.create_parser("rest-json")


def plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.timestamp()  # type: ignore[attr-defined]


def parsed(operation: str, status: int, headers: object, body: str) -> object:
    shape = model.operation_model(operation).output_shape
    response = {
        "status_code": status,
        "headers": HTTPHeaders.from_dict(headers),
        "body": base64.b64decode(body),
    }
    found = parser.parse(response, shape)
    if status >= 300:
        error = model.shape_for_error_code(found["Error"]["Code"])
        found.update(parser.parse(response, error) if error is not None else {})
    return found


json.dump([parsed(*answer) for answer in json.load(sys.stdin)], sys.stdout, default=plain)
