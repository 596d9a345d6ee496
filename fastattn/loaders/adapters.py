# SPDX-License-Identifier: MIT
"""Adapters (LoRA and its like) in a model's folder: they would change its weights, so they are not passed over."""

from __future__ import annotations

import json

from .files import ModelFiles

__all__ = ["CONFIG", "refuse_adapters"]

CONFIG = "adapter_config.json"
"""What every adapter of PEFT has."""


def refuse_adapters(files: ModelFiles) -> None:
    """Refuse a folder that holds an adapter, alone or beside the weights it belongs to.

    transformers puts it into the model when it loads the folder, so that the weights without it are another model.

    Raises
    ------
    ValueError
        There is an ``adapter_config.json``. It is named, with the model it belongs to and how to merge the two.
    """
    if not files.has(CONFIG):
        return
    try:
        base = files.read_json(CONFIG).get("base_model_name_or_path")
    except (OSError, ValueError):
        base = None
    of = f" of {json.dumps(base)[:100]}" if isinstance(base, str) and base else ""
    raise ValueError(
        f"{files.describe(CONFIG)}: an adapter{of}, which has to be put into the weights. A LoRA: load its model, "
        "from a folder without this file, and model.load_adapter(this folder). Any other, in an environment with peft: "
        "AutoPeftModel.from_pretrained(folder).merge_and_unload().save_pretrained(new_folder); copy the tokenizer and "
        "the files of sentence-transformers beside it"
    )
