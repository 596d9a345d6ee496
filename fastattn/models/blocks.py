# SPDX-License-Identifier: MIT
"""Parts that several encoders' pages have in common: sizes, names, embeddings, attention, what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..graph.config import ConfigReader
from ..graph.facts import Facts
from ..graph.graph import Graph, Value
from ..graph.names import Names
from ..graph.rotary import Rotary

__all__ = [
    "ACTIVATIONS", "BERT_LAYER", "EMBEDDINGS", "MAX_HEAD_SIZE", "MAX_LAYERS", "ROTARY_NAMES", "Sizes", "attend",
    "attend_turned", "bert_names", "check_head_size", "embeddings", "gated_post_norm", "kin_prefix", "post_norm",
    "project", "refuse_relative_positions", "stack",
]  # fmt: skip

# config.json's name -> ops.linear's; gelu_new, gelu_fast and gelu_pytorch_tanh are spellings of one formula.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
    "silu": "silu", "swish": "silu", "tanh": "tanh",
}  # fmt: skip
"""Activations by the names config.json has for them."""

MAX_HEAD_SIZE = 512  # of attention_varlen
MAX_LAYERS = 1000  # far above any model; a file that says more would have its tensors' names take all memory


class Sizes(NamedTuple):
    """What all families have."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    inner: int
    activation: str
    eps: float
    positions: int
    types: int = 0

    @classmethod
    def read(
        cls, c: ConfigReader, *, activation: str | None = "gelu", eps: float = 1e-12, positions: int | None = None,
        types: tuple[int | None, int] | None = (2, 1),
    ) -> Sizes:  # fmt: skip
        """As most files spell them; the arguments are defaults, None where the key has to be there.

        ``types``: the default and the least number of token types; None where there is no such key.
        """
        sizes = cls(
            vocab=c.size("vocab_size"), hidden=c.size("hidden_size"),
            layers=c.size("num_hidden_layers", maximum=MAX_LAYERS), heads=c.size("num_attention_heads"),
            inner=c.size("intermediate_size"), activation=c.choice("hidden_act", ACTIVATIONS, activation),
            eps=c.positive("layer_norm_eps", eps), positions=c.size("max_position_embeddings", positions),
            types=0 if types is None else c.size("type_vocab_size", types[0], minimum=types[1]),
        )  # fmt: skip
        check_head_size(c, sizes.hidden, sizes.heads)
        return sizes

    def facts(self, **changes: Any) -> Facts:
        """Of a model with a table of positions; ``changes`` for others."""
        facts = Facts(self.vocab, self.hidden, self.layers, self.heads, self.positions, self.types or 1)
        return facts._replace(**changes)


def check_head_size(
    config: ConfigReader, hidden: int, heads: int, names: tuple[str, str] = ("hidden_size", "num_attention_heads")
) -> None:
    """``ValueError`` where ``hidden`` is no multiple of ``heads``, or a head is larger than attention takes.

    ``names``: what config.json calls the two.
    """
    if hidden % heads:
        raise ValueError(f"{config.path}: {names[0]} {hidden} is not a multiple of {names[1]} {heads}")
    if hidden // heads > MAX_HEAD_SIZE:
        raise ValueError(
            f"{config.path}: {names[0]} {hidden} and {names[1]} {heads} make heads of {hidden // heads}, "
            f"expected at most {MAX_HEAD_SIZE}"
        )


def refuse_relative_positions(c: ConfigReader, *, key: bool = True) -> None:
    """``ValueError`` where ``position_embedding_type`` is not absolute; ``key``: whether the family has that key."""
    if key and c.null("position_embedding_type"):
        raise ValueError(
            f"{c.path}: position_embedding_type is null, which leaves positions out in transformers before 5 and not "
            "since; write 'absolute' if the model has them"
        )
    c.choice("position_embedding_type", {"absolute": None}, "absolute")


# ---- names ----

EMBEDDINGS = {
    "token_embd": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings",
    "position_embd": "embeddings.position_embeddings", "token_embd_norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
}  # fmt: skip
"""Roles outside layers, as BERT's kin call them."""


def kin_prefix(g: Graph, prefix: str) -> str:
    """``prefix``, where the tensors that every file of BERT's kin has lie behind it."""
    return g.source.prefix(prefix, "embeddings.position_embeddings.weight", "embeddings.LayerNorm.weight")


BERT_LAYER = {
    "attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense", "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm",
}  # fmt: skip
"""Roles of a layer, as BERT, RoBERTa and ELECTRA call them."""

ROTARY_NAMES = Names("", "layers.{i}.", {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_output_norm": "post_attention_layernorm", "ffn_up": "mlp.up_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj", "layer_output_norm": "post_mlp_layernorm",
}, **EMBEDDINGS)  # fmt: skip
"""As transformers names BERT with rotary positions and a gated feed-forward layer."""


def bert_names(g: Graph, prefix: str, layer: Mapping[str, str] = BERT_LAYER, **names: str) -> Names:
    """``layer``: roles of a layer; ``names``: further roles outside layers."""
    return Names(kin_prefix(g, prefix), "encoder.layer.{i}.", layer, **EMBEDDINGS, **names)


# ---- steps ----


def embeddings(g: Graph, s: Sizes, width: int, *, tied: str | None, positions: bool = True) -> Value:
    """norm(word + token type + position), each of ``width``, without what the model has no table of.

    ``tied``: a decoder that holds the same values as the table of words, and may be the one that was stored.
    """
    tables = {"ids": g.table("token_embd", (s.vocab, width), tied=tied)}
    if s.types:
        tables["types"] = g.table("token_types", (s.types, width))
    if positions:
        tables["positions"] = g.table("position_embd", (s.positions, width))
    return g.layer_norm(g.embed(tables, width), "token_embd_norm", s.eps)


def stack(
    g: Graph, x: Value, layers: int, layer: Callable[[int, Graph, Value], Value],
    last: Callable[[Value], Value] | None = None,
) -> Value:  # fmt: skip
    """``x`` through ``layers`` layers, ``layer(i, graph, x)`` each, then ``last``.

    What goes into the layers, and what comes out in the end, is hidden states that a call may ask for.
    """
    for i, inner in g.layers(layers):
        g.hidden_state(x)
        x = layer(i, inner, x)
    x = x if last is None else last(x)
    g.hidden_state(x)
    g.output("hidden", x)
    return x


def project(g: Graph, x: Value, width: int) -> list[Value]:
    """q, k, v of ``width`` each, from three layers."""
    return g.split(g.linear(x, ("attn_q", "attn_k", "attn_v"), width), width, width, width)


def attend(g: Graph, x: Value, s: Sizes, **options: Any) -> Value:
    """attention(q, k, v), each a layer of its own; ``options`` of ``Graph.attention``."""
    q, k, v = project(g, x, s.hidden)
    return g.attention(q, k, v, s.heads, **options)


def attend_turned(
    g: Graph, x: Value, s: Sizes, qkv: str | Sequence[str], rotary: Rotary, *, bias: bool = True, **options: Any
) -> Value:
    """attention(q, k, v), q and k turned by their positions; ``qkv``: one layer of all, or three."""
    both = g.linear(x, qkv, 3 * s.hidden if isinstance(qkv, str) else s.hidden, bias=bias)
    qk, v = g.split(both, 2 * s.hidden, s.hidden)
    q, k = g.split(g.rope(qk, 2 * s.heads, rotary), s.hidden, s.hidden)
    return g.attention(q, k, v, s.heads, **options)


def _added(g: Graph, x: Value, role: str, inner: Value, norm: str, s: Sizes, bias: bool) -> Value:
    """norm(x + role(inner))"""
    return g.layer_norm(g.linear(inner, role, s.hidden, bias=bias), norm, s.eps, residual=x)


def post_norm(
    g: Graph, x: Value, attended: Value, s: Sizes, up: str = "ffn_up", *, biases: Sequence[bool] = (True, True, True)
) -> Value:
    """y = norm(x + output(attended));  norm(y + down(act(up(y))))   Vaswani et al., 2017; Devlin et al., 2018

    ``biases`` of output, up and down.
    """
    y = _added(g, x, "attn_output", attended, "attn_output_norm", s, biases[0])
    inner = g.linear(y, up, s.inner, bias=biases[1], activation=s.activation)
    return _added(g, y, "ffn_down", inner, "layer_output_norm", s, biases[2])


def gated_post_norm(
    g: Graph, x: Value, attended: Value, s: Sizes, up: str | Sequence[str], *, biases: Sequence[bool]
) -> Value:
    """y = norm(x + output(attended));  norm(y + down(act(b) a)), [a | b] = up(y)

    ``up``: one layer of both, or two; ``biases`` of output, up and down.
    """
    y = _added(g, x, "attn_output", attended, "attn_output_norm", s, biases[0])
    a, b = g.split(g.linear(y, up, 2 * s.inner if isinstance(up, str) else s.inner, bias=biases[1]), s.inner, s.inner)
    return _added(g, y, "ffn_down", g.gated(b, a, s.activation), "layer_output_norm", s, biases[2])
