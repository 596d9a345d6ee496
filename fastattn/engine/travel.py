# SPDX-License-Identifier: MIT
"""Models in other processes: a pickled model is where it was loaded from and how, and is loaded again there.

Weights are not in the pickle: processes on one machine share a packed file's pages, and on another machine the files
have to be there, under the same path. What was loaded is compared with what was pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Origin", "rebuild", "reduce_model", "with_adapters"]


class Origin(NamedTuple):
    """Where a model is from."""

    load: Callable[..., Any]
    """What loads it."""
    path: str
    """Absolute."""
    options: Mapping[str, Any]
    """Keywords of ``load``."""
    fingerprint: str
    """Of the weights and of config.json."""


def reduce_model(
    model: Any, origin: Origin | None, added: Mapping[str, Origin | None], state: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What ``__reduce__`` returns.

    Parameters
    ----------
    added
        Origins of the models whose heads were put beside the model's own, by name.
    state
        Attributes that the user may have set since.

    Raises
    ------
    TypeError
        The model, or one that gave it a head, was not loaded from a path.
    """
    lost = ["it"] if origin is None else [f"the model of its head {name!r}" for name in added if added[name] is None]
    if origin is None or lost:
        raise TypeError(
            f"a {model.family.name} is pickled as the path it was loaded from, and {lost[0]} was not loaded by "
            "fastattn.load: load the model in the process that needs it"
        )
    return rebuild, (origin, dict(added), dict(state))


def rebuild(origin: Origin, added: Mapping[str, Origin], state: Mapping[str, Any]) -> Any:
    """The model again.

    Raises
    ------
    FileNotFoundError
        The files are not here.
    ValueError
        They are others than those the pickled model was loaded from; and as ``fastattn.load`` does.
    """
    model = _load(origin)
    for name, other in added.items():
        model.add_head(name, _load(other))
    for name, value in state.items():
        setattr(model, name, value)
    return model


def with_adapters(path: str, *, base: Origin, adapters: Sequence[str]) -> Any:
    """The model of ``base``, whose path is ``path``, with ``adapters`` in it: what loads such models again."""
    model = _load(base)
    for adapter in adapters:
        model = model.load_adapter(adapter)
    return model


def _load(origin: Origin) -> Any:
    try:
        model = origin.load(origin.path, **origin.options)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (a pickled model is loaded again from its path, {origin.path}: its files have to be there)"
        ) from None
    if model.origin is None or model.origin.fingerprint != origin.fingerprint:
        raise ValueError(
            f"{origin.path}: these are not the weights and the config.json that the pickled model was loaded from; "
            "pickle the model again"
        )
    return model
