"""What several operations answer about a resource; `row`: of its table."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Row

from edge_agent.service.call import Answer


def moment(seconds: float) -> datetime:
    """Return seconds since 1970 as answers have them."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def project_metadata(row: Row[Any]) -> Answer:
    """Return ProjectMetadata."""
    return {
        "ProjectArn": row.arn,
        "ProjectName": row.name,
        "CreationTimestamp": moment(row.created),
    }


def dataset_metadata(row: Row[Any]) -> Answer:
    """Return DatasetMetadata."""
    return {
        "DatasetType": row.type,
        "CreationTimestamp": moment(row.created),
        "Status": row.status,
        "StatusMessage": row.message,
    }


def model_metadata(row: Row[Any]) -> Answer:
    """Return ModelMetadata. Performance is there once the model is trained."""
    optional = {"Description": row.description, "Performance": row.performance}
    return {
        "ModelVersion": str(row.version),
        "ModelArn": row.arn,
        "CreationTimestamp": moment(row.created),
        "Status": row.status,
        "StatusMessage": row.message,
        **{name: value for name, value in optional.items() if value is not None},
    }
