# SPDX-License-Identifier: MIT
"""Adapters put into a loaded model, whose files are read again for what they change."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..engine.travel import Origin, with_adapters
from ..loaders.lora import open_adapter
from ..models.adapting import build_adapted
from ..models.registry import open_source

if TYPE_CHECKING:
    from ..engine.encoder import Encoder
    from ..graph.build import Built

__all__ = ["build_with_adapter"]


def build_with_adapter(model: Encoder, path: str | os.PathLike[str]) -> Built:
    """What ``model`` is with one more adapter; errors are those of ``TextEncoder.load_adapter``."""
    added, base = open_adapter(path), model.origin
    if base is None:
        raise ValueError(f"{model!r} was not loaded by fastattn.load: its weights are read again for an adapter")
    before: tuple[str, ...] = ()
    if base.load is with_adapters:
        before, base = tuple(base.options["adapters"]), base.options["base"]
    opened = open_source(base.path, num_threads=model.num_threads, **base.options)
    adapters = [*map(open_adapter, before), added]
    prints = (opened.fingerprint(), *(adapter.fingerprint for adapter in adapters))
    if model.origin is not None and "-".join(prints[:-1]) != model.origin.fingerprint:
        raise ValueError(
            f"{' or '.join([base.path, *before])}: not the files that the model was loaded from: load it again"
        )
    built = build_adapted(opened, adapters, 1, model.graph.made, model.tensors)
    options = {"base": base, "adapters": (*before, os.path.abspath(added.path))}
    return built._replace(origin=Origin(with_adapters, base.path, options, "-".join(prints)))
