# SPDX-License-Identifier: MIT
"""A model that continues sequences of token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .encoder import Encoder

if TYPE_CHECKING:
    from .._core import Blocks

__all__ = ["Decoder"]


class Decoder(Encoder):
    """A language model with its weights: ``model(input_ids, attention_mask)`` gives logits."""

    def check_logits(self) -> None:
        """``ValueError`` where the model has no language model's head."""
        if "logits" not in self.graph.trace.outputs:
            raise ValueError(f"{self.path}: the model has no language model's head (head={self.head_name!r})")

    @property
    def blocks(self) -> Blocks:
        """Scratch memory of its calls."""
        return self._blocks

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a text: of generation_config.json, else of config.json.

        Ids beyond the vocabulary are left out, since they never come, if there are others.
        """
        return self.keep("eos", self._read_ends)

    def _read_ends(self) -> frozenset[int]:
        for name in ("generation_config.json", "config.json"):
            if not self.files.has(name):
                continue
            value = self.files.read_json(name).get("eos_token_id")
            found = value if isinstance(value, list) else [] if value is None else [value]
            if not all(type(token) is int for token in found):
                where = self.files.describe(name)
                raise ValueError(f"{where}: eos_token_id is {str(value)[:100]!r}, expected ids")
            known = frozenset(token for token in found if 0 <= token < self.vocab_size)
            if found and (not known or min(found) < 0):
                where = self.files.describe(name)
                raise ValueError(
                    f"{where}: eos_token_id is {str(value)[:100]}, the model has ids below {self.vocab_size}"
                )
            if known:
                return known
        return frozenset()

    def total(self, prompt: int, new: int | None, name: str) -> int:
        """Tokens of a sequence that begins with a prompt of so many, and ``new`` ones, at most; None for all there is
        room for. ``ValueError`` with its ``name`` where the context is too short.
        """
        if prompt >= self.max_positions or (new is not None and prompt + new > self.max_positions):
            full = new is None or prompt >= self.max_positions
            what = "leave no room" if full else f"and {new} new ones are too many"
            raise ValueError(f"{name}: {prompt} tokens {what}: the context of the model has {self.max_positions}")
        return self.max_positions if new is None else prompt + new
