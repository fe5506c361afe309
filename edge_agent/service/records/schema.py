"""The tables. Times are seconds since 1970; statuses are the API's words."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

METADATA = MetaData()


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _of(table: str) -> Column[int]:
    return Column(
        f"{table}_id", Integer, ForeignKey(f"{table}s.id", ondelete="CASCADE"), nullable=False
    )


ACCESS_KEYS = Table(
    "access_keys",
    METADATA,
    Column("id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("secret", String, nullable=False),
    Column("created", Float, nullable=False),
)

PROJECTS = Table(
    "projects",
    METADATA,
    _id(),
    Column("account", String, nullable=False),
    Column("name", String, nullable=False),
    Column("arn", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("last_version", Integer, nullable=False, default=0),  # of its models, deleted ones too
    UniqueConstraint("account", "name"),
    Index("projects_in_order", "account", "id"),
)

DATASETS = Table(
    "datasets",
    METADATA,
    _id(),
    _of("project"),
    Column("type", String, nullable=False),  # train, test
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("status", String, nullable=False),
    Column("message", String, nullable=False, default=""),
    UniqueConstraint("project_id", "type"),
)

ENTRIES = Table(
    "entries",
    METADATA,
    _id(),
    _of("dataset"),
    Column("source_ref", String, nullable=False),
    Column("line", String, nullable=False),  # of the manifest, JSON
    Column("label", String),  # normal, anomaly; None: not labelled
    Column("created", Float, nullable=False),  # by its label's creation-date; else when added
    UniqueConstraint("dataset_id", "source_ref"),
    Index("entries_in_order", "dataset_id", "id"),
    Index("entries_by_label", "dataset_id", "label", "id"),
)

MODELS = Table(
    "models",
    METADATA,
    _id(),
    _of("project"),
    Column("version", Integer, nullable=False),
    Column("arn", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("description", String),
    Column("status", String, nullable=False),
    Column("message", String, nullable=False, default=""),
    Column("output_bucket", String, nullable=False),
    Column("output_prefix", String, nullable=False, default=""),
    Column("kms_key_id", String),
    Column("performance", JSON),  # F1Score, Recall, Precision
    Column("evaluation_manifest", JSON),  # Bucket, Key
    Column("evaluation_result", JSON),  # Bucket, Key
    Column("evaluation_ended", Float),
    Column("min_units", Integer),  # of a model that is, or is to be, hosted
    Column("max_units", Integer),
    UniqueConstraint("project_id", "version"),
)

REPLACED_ENTRIES = Table(  # as they were when a training was asked for that hasn't ended
    "replaced_entries",
    METADATA,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("entry_id", Integer, primary_key=True),
    Column("line", String, nullable=False),
    Column("label", String),
)

PACKAGING_JOBS = Table(
    "packaging_jobs",
    METADATA,
    _id(),
    _of("project"),
    Column("name", String, nullable=False),
    Column("model_version", String, nullable=False),
    Column("description", String),
    Column("configuration", JSON, nullable=False),  # ModelPackagingConfiguration
    Column("status", String, nullable=False),
    Column("message", String, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("output", JSON),  # GreengrassOutputDetails
    UniqueConstraint("project_id", "name"),
    Index("packaging_jobs_in_order", "project_id", "id"),
)

TAGS = Table(
    "tags",
    METADATA,
    Column("arn", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

CLIENT_TOKENS = Table(
    "client_tokens",
    METADATA,
    Column("account", String, primary_key=True),
    Column("operation", String, primary_key=True),
    Column("token", String, primary_key=True),
    Column("digest", LargeBinary, nullable=False),  # of the parameters
    Column("answer", String, nullable=False),  # JSON
    Column("created", Float, nullable=False, index=True),
)

SIGNATURES = Table(  # of calls that change something
    "signatures",
    METADATA,
    Column("signature", String, primary_key=True),
    Column("attempt", String, primary_key=True),  # of the client's to send the call
    Column("created", Float, nullable=False),
    Column("until", Float, nullable=False, index=True),  # the signature is valid
    Column("acted", Boolean, nullable=False),  # whether the call was done, and not refused
)

AUDIT_LINES = Table(  # that may not be in the audit log yet
    "audit_lines",
    METADATA,
    _id(),
    Column("line", String, nullable=False),  # JSON
    sqlite_autoincrement=True,  # no number comes twice
)

WORK = Table(
    "work",
    METADATA,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),  # such as training
    Column("parameters", JSON, nullable=False),
    Column("state", String, nullable=False),  # WAITING, RUNNING; gone when it has ended
    Column("created", Float, nullable=False),
)
