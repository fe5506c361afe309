"""What a model component is called and says of itself, with the packaging API's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping

from pydantic import Field, field_validator
from typing_extensions import Annotated

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, read
from edge_agent.manifest import NAME_PATTERN, VERSION_PATTERN
from edge_agent.packaging.json_document import Document
from edge_agent.packaging.recipe import AGENT
from edge_agent.packaging.target import Target

TAG_PATTERN = r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$"
TagKey = Annotated[str, Field(min_length=1, max_length=128, pattern=TAG_PATTERN)]
TagValue = Annotated[str, Field(max_length=256, pattern=TAG_PATTERN)]


class Component(Strict):
    """What to make, with the lengths and patterns of the packaging API."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    description: Annotated[str, Field(min_length=1, max_length=256)]
    tags: Annotated[Dict[TagKey, TagValue], Field(max_length=200, default_factory=dict)]
    agent: Annotated[str, Field(pattern=NAME_PATTERN)] = AGENT

    @field_validator("name", "agent")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not name.strip("."):
            raise ValueError(f"{name!r} can't name a folder; use letters as well")
        return name

    @field_validator("tags")
    @classmethod
    def _can_be_published(cls, tags: Dict[str, str]) -> Dict[str, str]:
        for key in tags:
            if key.lower().startswith("aws:"):
                raise ValueError(
                    f"{key!r} is reserved: tags of AWS itself start with aws:; choose another key"
                )
        return tags

    @classmethod
    def from_api(cls, configuration: Mapping[str, Any]) -> Component:
        """Read the API's GreengrassConfiguration, in which version and description are named.

        Raises InvalidConfiguration.
        """
        tags = [(tag["Key"], tag["Value"]) for tag in configuration.get("Tags", ())]
        values = {
            "name": configuration["ComponentName"],
            "version": configuration["ComponentVersion"],
            "description": configuration["ComponentDescription"],
            "tags": dict(tags),
        }
        if len(values["tags"]) < len(tags):
            raise InvalidConfiguration("Tags: a key is there twice; give every key once.")
        try:
            return read(cls, values)
        except ValueError as error:
            raise InvalidConfiguration(f"Component: {error}") from None

    def to_api(self, target: Target, out: Path, upload: str = "") -> Document:
        """Return it as the API's GreengrassConfiguration.

        OutputFolder and AgentComponent are ours; S3OutputLocation is there when `upload`,
        s3://BUCKET/PREFIX, is.
        """
        bucket, _, prefix = upload[len("s3://") :].partition("/")
        place = {"S3OutputLocation": {"Bucket": bucket, "Prefix": prefix}} if upload else {}
        return {
            **place,
            **target.to_api(),
            "ComponentName": self.name,
            "ComponentVersion": self.version,
            "ComponentDescription": self.description,
            "Tags": [{"Key": key, "Value": value} for key, value in sorted(self.tags.items())],
            "OutputFolder": str(out),
            "AgentComponent": self.agent,
        }
