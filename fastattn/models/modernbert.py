# SPDX-License-Identifier: MIT
"""ModernBERT: norms in front of each part, rotary positions, GeGLU, attention that is local in most layers.

    y = x + attention(norm(x));  x = y + down(gelu(a) b), [a | b] = up(norm(y));  at the end norm(x)

Warner et al., 2024, https://arxiv.org/abs/2412.13663; names of tensors and keys as in transformers' ModernBertModel.
"""

from __future__ import annotations

from ..graph.config import ConfigReader
from ..graph.family import NO_LIMIT, Facts, Family
from ..graph.graph import Graph, Value
from ..graph.heads import Dense, HeadSpec, NormStep, classifier
from ..graph.names import Names
from ..graph.rotary import Rotary, build_rotary, theta_of
from .blocks import ACTIVATIONS, MAX_LAYERS, Sizes, attend_turned, check_head_size, stack
from .tops import Decoder, add_heads, architectures, ignorable

__all__ = ["FAMILY"]

_KINDS = {"full_attention": 160000.0, "sliding_attention": 10000.0}  # and rope_theta where the keys are missing
_NAMES = Names("", "layers.{i}.", {
    "attn_norm": "attn_norm", "attn_qkv": "attn.Wqkv", "attn_output": "attn.Wo", "ffn_norm": "mlp_norm",
    "ffn_up_gate": "mlp.Wi", "ffn_down": "mlp.Wo",
}, token_embd="embeddings.tok_embeddings", token_embd_norm="embeddings.norm", output_norm="final_norm")  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    s = Sizes(
        vocab=c.size("vocab_size"), hidden=c.size("hidden_size"), positions=c.size("max_position_embeddings", 8192),
        inner=c.size("intermediate_size"), heads=c.size("num_attention_heads"), eps=c.positive("norm_eps", 1e-5),
        activation=c.choice("hidden_activation", ACTIVATIONS, "gelu"),
        layers=c.size("num_hidden_layers", maximum=MAX_LAYERS),
    )  # fmt: skip
    norm_bias, attention_bias, inner_bias = (c.flag(key, False) for key in ("norm_bias", "attention_bias", "mlp_bias"))
    half = c.size("local_attention", 128) // 2
    windows = {"full_attention": None, "sliding_attention": (half, half)}
    check_head_size(c, s.hidden, s.heads)
    kinds = _layer_kinds(c, s.layers)
    rotary = {kind: _rotary(c, kind, s.hidden // s.heads, s.positions) for kind in _KINDS}

    g.names = _NAMES.replace(g.source.prefix("model.", "embeddings.tok_embeddings.weight", "embeddings.norm.weight"))
    decoder = Decoder.read(g, "decoder")
    x = g.embed({"ids": g.table("token_embd", (s.vocab, s.hidden), tied=decoder.stored)}, s.hidden)
    x = g.layer_norm(x, "token_embd_norm", s.eps, bias=norm_bias)

    def layer(i: int, g: Graph, x: Value) -> Value:
        # the first layer stands behind the norm of the embeddings
        y = g.layer_norm(x, "attn_norm", s.eps, bias=norm_bias) if i else x
        window = windows[kinds[i]]
        attended = attend_turned(g, y, s, "attn_qkv", rotary[kinds[i]], bias=attention_bias, window=window)
        x = x + g.linear(attended, "attn_output", s.hidden, bias=attention_bias)
        y = g.layer_norm(x, "ffn_norm", s.eps, bias=norm_bias)
        up, gate = g.split(g.linear(y, "ffn_up_gate", 2 * s.inner, bias=inner_bias), s.inner, s.inner)
        return x + g.linear(g.gated(up, gate, s.activation), "ffn_down", s.hidden, bias=inner_bias)

    x = stack(g, x, s.layers, layer, lambda x: g.layer_norm(x, "output_norm", s.eps, bias=norm_bias))

    before = (
        Dense("head.dense", s.hidden, s.hidden, c.choice("classifier_activation", ACTIVATIONS, "gelu"),
              bias=c.flag("classifier_bias", False)),
        NormStep("head.norm", s.hidden, s.eps, bias=norm_bias),
    )  # fmt: skip
    rows = c.choice("classifier_pooling", {"cls": "first", "mean": "mean"}, "cls")
    if not c.flag("decoder_bias", True):
        decoder = decoder._replace(biases=())
    add_heads(
        g, x,
        masked_lm=decoder.behind(s, before),
        sequence_classification=lambda: classifier("sequence_classification", rows, before, "classifier", s.hidden),
        token_classification=lambda: classifier("token_classification", "all", before, "classifier", s.hidden),
        question_answering=lambda: HeadSpec("question_answering", "all", (*before, Dense("classifier", 2, s.hidden))),
    )  # fmt: skip
    return s.facts(max_positions=NO_LIMIT, trained_positions=s.positions)


def _layer_kinds(c: ConfigReader, layers: int) -> tuple[str, ...]:
    """``layer_types``; in older files one layer in ``global_attn_every_n_layers``, from the first, sees everything."""
    kinds = c.words("layer_types", tuple(_KINDS))
    if kinds is None:
        every = c.size("global_attn_every_n_layers", 3)
        return tuple("sliding_attention" if i % every else "full_attention" for i in range(layers))
    if len(kinds) != layers:
        raise ValueError(f"{c.path}: layer_types has {len(kinds)} entries, expected {layers}, num_hidden_layers")
    return kinds


def _rotary(c: ConfigReader, kind: str, width: int, positions: int) -> Rotary:
    """Of the layers of a kind. ``rope_parameters`` has an entry for each kind; what it does not say is in the keys of
    files of before transformers 5. There null in place of local_rope_theta is the base of the other layers, and not,
    as where the key is missing, a default of its own.
    """
    base = c.positive("global_rope_theta", _KINDS["full_attention"])
    if kind == "sliding_attention" and not c.null("local_rope_theta"):
        base = c.positive("local_rope_theta", _KINDS[kind])
    parameters = c.mapping("rope_parameters") or {}
    own = parameters.get(kind)
    if own is not None and not isinstance(own, dict):
        raise ValueError(f"{c.path}: rope_parameters has {str(own)[:100]!r} for {kind}, expected an object")
    own = {**(own or {}), **(c.mapping("rope_scaling") or {})}
    base, scaling = theta_of(c, f"rope_parameters of {kind}", own, base)
    return build_rotary(c, width, base=base, scaling=scaling, positions=positions)


FAMILY = Family(
    name="ModernBertModel",
    build=build,
    architectures=architectures("ModernBert"),
    ignorable=ignorable(r"model\.", "head|decoder", r".*rotary_emb\..*"),
    pooled_output=False,
)
