"""TagResource, UntagResource, ListTagsForResource. Only models have tags, as with the original."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Row

from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import AccessDenied, ResourceNotFound, ValidationFailed
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_model
from edge_agent.service.records.tags import put_tags, remove_tags, tags_of

MODEL_ARN = re.compile(
    r"arn:aws[a-z-]*:(?P<service>[a-z]+):[a-z0-9-]+:(?P<account>[0-9]{12})"
    r":model/(?P<project>[a-zA-Z0-9][a-zA-Z0-9_-]{0,254})/(?P<version>[1-9][0-9]{0,9})"
)


class Tags:
    """The tags of models."""

    def tag_resource(self, call: Call, transaction: Transaction) -> Answer:
        """Add tags; a key that is there gets the new value."""
        model = _model(call, transaction)
        put_tags(call, transaction, model.arn, call.parameters["Tags"])
        return {}

    def untag_resource(self, call: Call, transaction: Transaction) -> Answer:
        """Remove tags by key, those that aren't there too."""
        model = _model(call, transaction)
        remove_tags(transaction, model.arn, call.parameters["TagKeys"])
        return {}

    def list_tags_for_resource(self, call: Call, transaction: Transaction) -> Answer:
        """Answer the tags in the order of their keys."""
        return {"Tags": tags_of(transaction, _model(call, transaction).arn)}


def _model(call: Call, transaction: Transaction) -> Row[Any]:
    """Return the model that the call's ResourceArn names; its region plays no part."""
    arn = call.parameters["ResourceArn"]
    parts = MODEL_ARN.fullmatch(arn)
    if parts is None or parts["service"] != call.service:
        raise ValidationFailed(
            "ResourceArn must be a model's, such as "
            f"{call.arn('model/cookies/1')}, and was {arn!r}."
        )
    if parts["account"] != call.account:  # said of the ARN, whether there is such a model or not
        raise AccessDenied(
            f"The account {call.account} may not call {call.service}:{call.operation} on {arn}, "
            "which is of another account."
        )
    try:
        return find_model(transaction, call.account, parts["project"], parts["version"])
    except ResourceNotFound:
        raise ResourceNotFound(f"The model {arn} was not found.", "MODEL", arn) from None
