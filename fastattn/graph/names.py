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

    def of(self, role: str, layer: int | None = None) -> str:
        """The full name of ``role``, of the layer of that number."""
        name = self._names[role] if layer is None else self._layer.format(i=layer) + self._of_layer[role]
        return name[1:] if name.startswith("/") else self._prefix + name

    def replace(self, prefix: str | None = None, **names: str) -> Names:
        """The same with another prefix, or further names."""
        where = self._prefix if prefix is None else prefix
        return Names(where, self._layer, self._of_layer, **{**self._names, **names})
