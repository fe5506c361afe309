"""Open edge inference runtime for visual inspection.

Importing it turns off the telemetry of onnxruntime, for this process and its children.
"""

from __future__ import annotations

import os

__version__ = "1.3.0"

# From 1.29 on onnxruntime writes a device id into the home folder and calls its maker as soon as it
# is imported; no setting stops that afterwards. Always set: nothing may phone home.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
