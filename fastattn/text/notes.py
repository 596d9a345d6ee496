# SPDX-License-Identifier: MIT
"""What the files beside a model say that is not known, and so not obeyed."""

from __future__ import annotations

from ..loaders.files import ModelFiles
from .jsonkeys import shown
from .sidefiles import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG
from .tokenizerconfig import AS_IT_IS, KNOWN_CLASSES

__all__ = ["side_notes"]


def side_notes(files: ModelFiles) -> list[str]:
    """One line for each key of the open files that is not known, and for a class of tokenizer that is not.

    A file that is damaged is named; whoever needs it gets the error.

    Example
    -------
    >>> side_notes(model.files)                                     # doctest: +SKIP
    ["tokenizer_config.json: 'my_option' is not known, and not obeyed"]
    """
    notes = []
    for name, table in (("tokenizer_config.json", TOKENIZER_CONFIG), ("special_tokens_map.json", SPECIAL_TOKENS_MAP)):
        try:
            values = files.read_json(name) if files.has(name) else {}
        except (OSError, ValueError) as error:
            notes.append(str(error))
            continue
        for key, value in values.items():
            if key not in table and not (key.endswith("_token") and isinstance(value, (str, dict))):
                notes.append(f"{name}: {shown(key)} is not known, and not obeyed")
        kind = values.get("tokenizer_class")
        if isinstance(kind, str) and kind.removesuffix("Fast") not in KNOWN_CLASSES | AS_IT_IS:
            notes.append(f"{name}: tokenizer_class {shown(kind)} is not known; tokenizer.json is taken as it is")
    return notes
