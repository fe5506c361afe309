"""Python packages, looked up by their metadata, so that none is loaded."""

from __future__ import annotations

from importlib import metadata
from typing import List, Optional

from edge_agent.doctor.findings import MISSING, OK, PROBLEM, Finding

# Distributions that install the same files: of each group at most one.
EXCLUSIVE = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
     "opencv-contrib-python-headless"),
)  # fmt: skip


def versions() -> List[Finding]:
    """Tell versions, and what the missing ones are for."""
    needed_for = {
        "onnxruntime": "models on the CPU: pip install 'edge-agent[cpu]'",
        "onnx": "training: pip install 'edge-agent[train]'",
        "awsiotsdk": "publishing results to AWS IoT: pip install awsiotsdk",
        "boto3": "uploading captures: pip install 'edge-agent[publish]'",
    }
    findings = []
    for name, purpose in needed_for.items():
        version = _version(name) or (name == "onnxruntime" and _version("onnxruntime-gpu")) or None
        detail = version or f"needed for {purpose}"
        findings.append(Finding(name, OK if version else MISSING, detail))
    return findings


def conflicts() -> List[Finding]:
    """Look for distributions that install the same files."""
    findings = []
    for group in EXCLUSIVE:
        there = [name for name in group if _version(name)]
        if len(there) > 1:
            detail = (
                f"{' and '.join(there)} overwrite each other's files. Uninstall all of them, "
                f"then install one."
            )
            findings.append(Finding(group[0], PROBLEM, detail))
    return findings


def _version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
