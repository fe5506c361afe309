from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List

import pytest
from sqlalchemy import insert

from edge_agent.service.faults import (
    AccessDenied,
    QuotaExceeded,
    ResourceNotFound,
    ValidationFailed,
)
from edge_agent.service.operations.tags import Tags
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.records.tags import remove_tags, tags_of
from tests.service.calls import ACCOUNT, OTHER, call

ARN = f"arn:aws:lookoutvision:eu-west-1:{ACCOUNT}:model/cookies/1"


@pytest.fixture(autouse=True)
def _model(records: Records) -> None:
    with records.write() as transaction:
        run = transaction.connection.execute
        project = {"id": 1, "account": ACCOUNT, "name": "cookies", "arn": "a", "created": 1.0}
        run(insert(PROJECTS).values(**project))
        facts = {"created": 1.0, "status": "TRAINED", "output_bucket": "b", "arn": ARN}
        run(insert(MODELS).values(project_id=1, version=1, **facts))


def pairs(**tags: str) -> List[Dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag(records: Records, tags: List[Dict[str, str]], arn: str = ARN, **who: Any) -> None:
    with records.write() as transaction:
        asked = call("TagResource", ResourceArn=arn, Tags=tags, **who)
        assert Tags().tag_resource(asked, transaction) == {}


def untag(records: Records, keys: List[str], arn: str = ARN, **who: Any) -> None:
    with records.write() as transaction:
        asked = call("UntagResource", ResourceArn=arn, TagKeys=keys, **who)
        assert Tags().untag_resource(asked, transaction) == {}


def listed(records: Records, arn: str = ARN, **who: Any) -> object:
    with records.read() as transaction:
        asked = call("ListTagsForResource", ResourceArn=arn, **who)
        return Tags().list_tags_for_resource(asked, transaction)["Tags"]


def test_a_model_is_found_by_its_arn_with_every_region(records: Records) -> None:
    tag(records, pairs(line="4"))
    assert listed(records, ARN.replace("eu-west-1", "us-east-1")) == pairs(line="4")
    asked = replace(call("ListTagsForResource", ResourceArn=ARN), region="us-east-1")
    with records.read() as transaction:
        assert Tags().list_tags_for_resource(asked, transaction)["Tags"] == pairs(line="4")


def test_tags_are_added_changed_listed_and_removed(records: Records) -> None:
    assert listed(records) == []
    tag(records, pairs(line="4", crew="b"))
    tag(records, pairs(line="5", empty=""))
    assert listed(records) == pairs(crew="b", empty="", line="5")
    untag(records, ["line", "absent"])
    assert listed(records) == pairs(crew="b", empty="")
    tag(records, [])
    untag(records, [])
    assert listed(records) == pairs(crew="b", empty="")


@pytest.mark.parametrize("key", ["aws:line", "AWS:line", "aws:"])
def test_a_reserved_key_is_refused(records: Records, key: str) -> None:
    with pytest.raises(ValidationFailed, match=f"The tag key {key} begins with aws:"):
        tag(records, [*pairs(a="1"), {"Key": key, "Value": ""}])
    assert listed(records) == []


def test_a_key_that_comes_twice_is_refused(records: Records) -> None:
    with pytest.raises(ValidationFailed, match="The tag key a comes twice"):
        tag(records, pairs(a="1") * 2)
    tag(records, pairs(a="1", A="2"))


def test_a_model_has_at_most_200_tags(records: Records) -> None:
    tag(records, pairs(**{f"k{number}": "v" for number in range(200)}))
    tag(records, pairs(k7="changed"))
    with pytest.raises(QuotaExceeded, match="at most 200 tags") as raised:
        tag(records, pairs(one_more="v"))
    assert raised.value.members["ResourceId"] == ARN
    assert len(str(listed(records)).split("Key")) - 1 == 200


@pytest.mark.parametrize(
    "arn",
    [
        "x",
        "arn:aws:lookoutvision:eu-west-1:123456789012:project/cookies",
        "arn:aws:rekognition:eu-west-1:123456789012:model/cookies/1",
        "arn:aws:lookoutvision:eu-west-1:123456789012:model/cookies/latest",
        "arn:aws:lookoutvision:eu-west-1:123456789012:model/cookies/1/",
        "arn:aws:lookoutvision:eu-west-1:123456789012:model/cookies/1\n",
        "arn:aws:lookoutvision:eu-west-1:12345:model/cookies/1",
    ],
)
def test_an_arn_that_is_no_models_is_refused(records: Records, arn: str) -> None:
    for act in (lambda: tag(records, [], arn), lambda: untag(records, [], arn)):
        with pytest.raises(ValidationFailed, match="ResourceArn must be a model's, such as"):
            act()
    with pytest.raises(ValidationFailed, match=r"and was 'arn|and was 'x'"):
        listed(records, arn)


@pytest.mark.parametrize("name", ["cookies", "cakes"])
def test_an_arn_of_another_account_is_refused_and_says_nothing(records: Records, name: str) -> None:
    arn = ARN.replace("cookies", name)
    with pytest.raises(AccessDenied, match=rf"{OTHER} may not call .*ListTagsForResource on {arn}"):
        listed(records, arn, account=OTHER)


def test_an_absent_model_is_named(records: Records) -> None:
    tag(records, pairs(line="4"))
    absent = [
        (ARN.replace(ACCOUNT, OTHER), OTHER),
        (ARN.replace("/1", "/2"), ACCOUNT),
        (ARN.replace("cookies", "cakes"), ACCOUNT),
    ]
    for arn, account in absent:
        with pytest.raises(ResourceNotFound) as raised:
            listed(records, arn, account=account)
        assert raised.value.members == {
            "Message": f"The model {arn} was not found.",
            "ResourceType": "MODEL",
            "ResourceId": arn,
        }


def test_an_arn_of_another_region_is_the_same_models(records: Records) -> None:
    tag(records, pairs(line="4"), ARN.replace("eu-west-1", "us-gov-west-1"))
    assert listed(records) == pairs(line="4")


def test_all_tags_of_a_model_can_be_removed(records: Records) -> None:
    tag(records, pairs(a="1", b="2"))
    with records.write() as transaction:
        remove_tags(transaction, ARN)
        assert tags_of(transaction, ARN) == []
