# SPDX-License-Identifier: MIT
"""What a user would pick instead, each behind the same small interface and limited to the same number of threads.

Peers live in the environment, never among the dependencies: one that is not installed is named and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastattn.bench.inputs import Inputs
    from fastattn.bench.operator_cases import Arrays, LinearAttentionCase, SimilarityCase
    from fastattn.bench.shapes import AttentionCase, LinearCase

__all__ = ["NAMES", "WRITERS", "Form", "NotOffered", "Peer", "installed", "installed_writers", "one_line", "open_peers"]

NAMES = ("torch", "onnxruntime", "openvino", "ctranslate2", "numpy")
WRITERS = {"transformers": ("torch", "transformers"), "llama.cpp": ("llama_cpp",)}
"""Peers that continue prompts, and the modules they need."""


class NotOffered(Exception):
    """The peer has nothing for this; the message says so in a few words."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to compute a case with a peer."""

    name: str
    make: Callable[[], Callable[[int], Any]]
    """Prepares it, which is not timed, and returns the call on the set of an index. May fail: the form is left out."""
    read: Callable[[Any], np.ndarray] = np.asarray
    """The float32 array (batch, heads, sq, dv) of what the call returns."""


class Peer:
    """A library that does the same. Constructed with the number of threads it is held to."""

    name = ""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self.version = ""

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Form]:
        """Ways to compute ``case``, each a call on one of ``sets``, whose arrays it reads in place where it can.

        NotOffered where there is no way.
        """
        raise NotOffered(f"{self.name} offers no attention operator")

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """Ways to compute x @ weights[i].T for the i they are called with, weights being (n, k)."""
        raise NotOffered(f"{self.name} offers no linear operator")

    def linear_attention(self, case: LinearAttentionCase, arrays: Arrays) -> list[Callable[[int], Any]]:
        """Ways to compute ``case`` from the state of an index, float32 (batch, tokens, heads, dv) and a new state."""
        raise NotOffered(f"{self.name} offers no linear attention")

    def similarity(self, case: SimilarityCase, a: Any, b: Any) -> list[Callable[[], Any]]:
        """Ways to compute the scores (n, k) of the best rows of b for each of a, the best first."""
        raise NotOffered(f"{self.name} offers no search")

    def close(self) -> None:
        """Gives back what the constructor has changed in the process."""


_MODULES = {
    "torch": ("torch", "with_torch", "TorchPeer"),
    "onnxruntime": ("onnxruntime", "with_onnxruntime", "OnnxRuntimePeer"),
    "openvino": ("openvino", "with_openvino", "OpenVinoPeer"),
    "ctranslate2": ("ctranslate2", "with_ctranslate2", "CTranslate2Peer"),
    "numpy": ("numpy", "with_numpy", "NumPyPeer"),
}


def one_line(error: BaseException) -> str:
    """What went wrong, on one line of a table."""
    if isinstance(error, NotOffered):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def installed(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of ``names`` whose library is installed, and a line for each other.

    Raises:
        ValueError: a name that is none of NAMES.
    """
    return _found(names, {name: (module,) for name, (module, _, _) in _MODULES.items()})


def installed_writers(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The same for names of WRITERS."""
    return _found(names, WRITERS)


def _found(names: Sequence[str], known: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    for name in names:
        if name not in known:
            raise ValueError(f"compare: {name!r} is unknown, expected some of {','.join(known)}")
    there = [name for name in dict.fromkeys(names) if all(find_spec(module) is not None for module in known[name])]
    return there, [f"{name}: not installed, left out" for name in dict.fromkeys(names) if name not in there]


def open_peers(names: Sequence[str], num_threads: int) -> tuple[list[Peer], list[str]]:
    """The peers of ``names`` that can be had, and a line for each that cannot.

    Raises:
        ValueError: a name that is none of NAMES.
    """
    there, notes = installed(names)
    peers: list[Peer] = []
    for name in there:
        _, module, kind = _MODULES[name]
        try:
            peers.append(getattr(import_module(f"{__name__}.{module}"), kind)(num_threads))
        except Exception as error:  # other people's code, in any state: the comparison goes on without it
            notes.append(f"{name}: left out: {one_line(error)}")
    return peers, notes
