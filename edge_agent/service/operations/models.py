"""DescribeModel, ListModels."""

from __future__ import annotations

from typing import Any, Dict

from sqlalchemy import Row, select

from edge_agent.service.call import Answer, Call
from edge_agent.service.operations.metadata import model_metadata, moment
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_model, find_project
from edge_agent.service.records.pages import page_of
from edge_agent.service.records.schema import MODELS


class Models:
    """What is known of the models."""

    def describe_model(self, call: Call, transaction: Transaction) -> Answer:
        """Answer all there is to say about one version."""
        name, version = call.parameters["ProjectName"], call.parameters["ModelVersion"]
        row = find_model(transaction, call.account, name, version)
        location = {"Bucket": row.output_bucket, "Prefix": row.output_prefix}
        return {
            "ModelDescription": {
                **model_metadata(row),
                "OutputConfig": {"S3Location": location},
                **_known(row),
            }
        }

    def list_models(self, call: Call, transaction: Transaction) -> Answer:
        """Answer a page of the project's models, the first version first."""
        project = find_project(transaction, call.account, call.parameters["ProjectName"])
        query = select(MODELS).where(MODELS.c.project_id == project.id)
        page = page_of(call, transaction, query, MODELS.c.version)
        return {"Models": [model_metadata(row) for row in page.rows], **page.token}


def _known(row: Row[Any]) -> Dict[str, object]:
    """Return what isn't there for every model: of trained ones, of hosted ones."""
    ended = row.evaluation_ended
    optional = {
        "EvaluationManifest": row.evaluation_manifest,
        "EvaluationResult": row.evaluation_result,
        "EvaluationEndTimestamp": None if ended is None else moment(ended),
        "KmsKeyId": row.kms_key_id,
        "MinInferenceUnits": row.min_units,
        "MaxInferenceUnits": row.max_units,
    }
    return {name: value for name, value in optional.items() if value is not None}
