"""The files of a manifest: those on S3 stay, images are left to docker, others need a person."""

from __future__ import annotations

import re
from typing import Optional

from edge_agent.packaging.json_document import Document, inner
from edge_agent.packaging.migrate.migration import Notes
from edge_agent.packaging.migrate.scripts import Untranslatable

PLACEHOLDER = "s3://BUCKET_NAME/"  # which gdk fills in when it publishes
PRIVATE = re.compile(r"\d{12}\.dkr\.ecr\.")  # a registry of ECR that needs a login
# It fetches images on the classic nucleus only.
DOCKER_MANAGER = "aws.greengrass.DockerApplicationManager"


def migrate(artifact: Document, where: str, place: str, notes: Notes) -> Optional[Document]:
    """Return our artifact with the classic nucleus's defaults; None for an image of docker.

    `place` is the component's folder of artifacts, NAME/VERSION. Raises Untranslatable.
    """
    uri = str(artifact.get("URI", ""))
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() == "docker" and rest:
        _leave_to_docker(rest, where, notes)
        return None
    if scheme.lower() != "s3" or not re.fullmatch(r"//[^/]+/.+", rest):
        came = f"begins with {scheme}:" if colon else "has no scheme"
        raise Untranslatable(
            f"URI {came if uri else 'is missing'}; both nuclei need s3://BUCKET/FILE. Put the file "
            "into a bucket of yours and write its address."
        )
    permission = inner(artifact, "Permission")
    return {
        "URI": _address(f"s3:{rest}", where, place, notes),
        "Unarchive": str(artifact.get("Unarchive", "NONE")).upper(),
        "Permission": {  # digests are made by the service
            "Read": str(permission.get("Read", "OWNER")).upper(),
            "Execute": str(permission.get("Execute", "NONE")).upper(),
        },
    }


def _leave_to_docker(image: str, where: str, notes: Notes) -> None:
    if PRIVATE.search(image):
        notes.person(
            where,
            f"Left out, as nucleus lite fetches no images. Log docker of the device in to the "
            f"registry (docker login), or load the image there: {image}.",
        )
    else:
        notes.changed(
            where,
            f"Left out, as nucleus lite fetches no images; docker run fetches {image} itself.",
        )


def _address(uri: str, where: str, place: str, notes: Notes) -> str:
    """Return where the artifact is; one that gdk has yet to publish gets our component's place."""
    if not uri.startswith(PLACEHOLDER):
        return uri
    name = uri.rpartition("/")[2]
    notes.person(where, f"Copy {name} to artifacts/{place} of the new component, then publish it.")
    return f"{PLACEHOLDER}{place}/{name}"
