# SPDX-License-Identifier: MIT
"""Names of a classifier's outputs, as config.json has them and transformers reads them."""

from __future__ import annotations

import re
from typing import Any

from .config import ConfigReader, short

__all__ = ["MAX_LABELS", "are_tags", "read_labels"]

MAX_LABELS = 1_000_000
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_TAG = re.compile(r"O|[BI]-.+", re.DOTALL)


def read_labels(
    config: ConfigReader, rows: int | None, layer: str, inputs: int, *, silent: bool = False
) -> tuple[str, ...]:
    """The labels of a head whose last layer, ``layer`` of ``inputs``, has ``rows`` outputs (None: it is not known).

    ``id2label`` names them, else ``label2id`` turned round; of ``num_labels`` alone they are LABEL_0 and on, and where
    the file is silent there are two of them, as in transformers. Labels need not be strings: they are what ``str``
    makes of them. Their numbers may have gaps or begin at 1: outputs without a name are LABEL_i, and names of outputs
    that are not there are left out. Where ``id2label`` and ``num_labels`` differ, the one that fits ``rows`` counts
    (transformers 4 goes by the former, 5 by the latter).

    Parameters
    ----------
    silent
        Take ``rows`` for the number of labels where the file does not say it.

    Raises
    ------
    ValueError
        The file says another number of labels than ``rows``, or is no mapping from numbers.
    """
    named = _named(config)
    if named is not None:
        count = len(named)
        dense = named.keys() == set(range(count))
        if rows is not None and rows != count and config.value("num_labels") == rows:
            return tuple(f"LABEL_{i}" for i in range(rows))
        if rows is not None and rows != count and (dense or max(named) >= rows):
            key = "id2label" if config.has("id2label") else "label2id"
            raise _differ(config, key, f"of {count} labels", layer, (rows, count, inputs))
        return tuple(named.get(i, f"LABEL_{i}") for i in range(count if rows is None else rows))
    if config.has("num_labels"):
        count = config.size("num_labels", maximum=MAX_LABELS)
        if rows is not None and rows != count:
            raise _differ(config, "num_labels", str(count), layer, (rows, count, inputs))
    else:
        count = rows if silent and rows is not None else 2
    return tuple(f"LABEL_{i}" for i in range(count))


def are_tags(config: ConfigReader) -> bool:
    """Whether the labels are those of tokens: "O", "B-PER", "I-PER"."""
    return any(_TAG.fullmatch(label) for label in (_named(config) or {}).values())


def _differ(config: ConfigReader, key: str, found: str, layer: str, sizes: tuple[int, int, int]) -> ValueError:
    rows, count, inputs = sizes
    return ValueError(
        f"{config.path}: {key} is {found}: tensor '{layer}.weight' has shape [{rows}, {inputs}], but config.json asks "
        f"for [{count}, {inputs}] (head='none' loads the encoder alone)"
    )


def _named(config: ConfigReader) -> dict[int, str] | None:
    """Number of an output -> its label; None where the file names none."""
    if not config.has("id2label"):
        return _turned(config.value("label2id"))
    found = config.value("id2label")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{config.path}: id2label is {short(found)}, expected an object from numbers to labels")
    named: dict[int, str] = {}
    for key, label in found.items():
        if not _NUMBER.fullmatch(key) or int(key) in named:
            raise ValueError(f"{config.path}: id2label is {short(found)}, expected each number once, but got {key!r}")
        named[int(key)] = _text(label)
    return named


def _turned(found: Any) -> dict[int, str] | None:
    """``label2id`` from numbers to labels; None where it is no such thing, as nobody else reads it."""
    if not isinstance(found, dict) or not found:
        return None
    if not all(type(number) is int and abs(number) < 10**18 for number in found.values()):
        return None
    named = {number: label for label, number in found.items()}
    return named if len(named) == len(found) else None


def _text(label: Any) -> str:
    return label if isinstance(label, str) else short(label)[1:-1] if isinstance(label, (list, dict)) else str(label)
