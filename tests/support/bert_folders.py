# SPDX-License-Identifier: MIT
"""Changes of the folder that ``tiny_bert.save_folder(folder, "plain")`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from golden import tiny_bert

Array = np.ndarray[Any, Any]


def change_config(folder: Path, **changes: Any) -> Path:
    """Set keys of config.json; ``...`` deletes one."""
    values = {**tiny_bert.config("plain"), **changes}
    text = json.dumps({key: value for key, value in values.items() if value is not ...})
    (folder / "config.json").write_text(text)
    return folder


def change_tensors(folder: Path, **changes: Array | None) -> Path:
    """Replace, add or (None) drop tensors; dots are written as ``__``."""
    arrays: dict[str, Any] = {**tiny_bert.tensors("plain")}
    arrays |= {name.replace("__", "."): array for name, array in changes.items()}
    tiny_bert.save_safetensors(folder / "model.safetensors", {k: a for k, a in arrays.items() if a is not None})
    return folder
