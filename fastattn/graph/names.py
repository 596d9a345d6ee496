# SPDX-License-Identifier: MIT
"""From a role to the name of a layer in a file. Roles are GGUF's names: ``attn_q``, ``ffn_up``, ``token_embd``."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Names"]


class Names:
    """Names of a checkpoint's layers by their roles.

    Parameters
    ----------
    prefix
        In front of all names but those that begin with a slash.
    layer
        In front of the names of a layer's parts, behind ``prefix``; ``{i}`` is its number.
    layer_names
        Role -> name within a layer.
    names
        Role -> name.

    >>> layer = {"attn_q": "self_attn.q_proj"}
    >>> names = Names("model.", "layers.{i}.", layer, token_embd="embed_tokens", output="/lm_head")
    >>> names.of("token_embd"), names.of("output"), names.of("attn_q", 3)
    ('model.embed_tokens', 'lm_head', 'model.layers.3.self_attn.q_proj')
    """

    def __init__(self, prefix: str, layer: str, layer_names: Mapping[str, str], **names: str) -> None:
        self._prefix, self._layer, self._of_layer, self._names = prefix, layer, dict(layer_names), names

    @property
    def prefix(self) -> str:
        """What is in front of the names."""
        return self._prefix

    def of(self, role: str, layer: int | None = None) -> str:
        """The full name of ``role``, of the layer of that number."""
        name = self._names[role] if layer is None else self._layer.format(i=layer) + self._of_layer[role]
        return name[1:] if name.startswith("/") else self._prefix + name

    def get(self, role: str, layer: int | None = None) -> str | None:
        """``of``; None for a role that it does not know."""
        return self.of(role, layer) if role in (self._names if layer is None else self._of_layer) else None

    def roles(self, name: str) -> list[tuple[str, int | None]]:
        """The roles, and the layer, that have the full name ``name``; several where two pages call one thing so."""
        found: list[tuple[str, int | None]] = [(role, None) for role in self._names if self.of(role) == name]
        start = (self._prefix + self._layer).split("{i}")
        if name.startswith(start[0]):
            number, dot, rest = name[len(start[0]) :].partition(".")
            if number.isascii() and number.isdigit() and dot:
                found += [(role, int(number)) for role, known in self._of_layer.items() if known == rest]
        return found

    def replace(self, prefix: str | None = None, **names: str) -> Names:
        """The same with another prefix, or further names."""
        where = self._prefix if prefix is None else prefix
        return Names(where, self._layer, self._of_layer, **{**self._names, **names})

    def in_layers(self, **names: str) -> Names:
        """The same with other or further names within a layer."""
        return Names(self._prefix, self._layer, {**self._of_layer, **names}, **self._names)
