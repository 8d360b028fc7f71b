"""DeepSpeed profiles, one JSON file per ZeRO stage, with the batch arithmetic left open.

Where a profile says ``"auto"`` the caller fills in the value: see :func:`load_profile`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

STAGES = (1, 2, 3)


def load_profile(stage: int) -> dict[str, Any]:
    """The profile of a ZeRO stage as a fresh tree; its ``"auto"`` values are still to be filled.

    Raises:
        ValueError: there is no profile of that stage.
    """
    if stage not in STAGES:
        raise ValueError(
            f"engine.zero = {stage}: must be one of {list(STAGES)}; choose one of them"
        )
    return json.loads((files("ds_configs") / f"zero{stage}.json").read_text(encoding="utf-8"))
