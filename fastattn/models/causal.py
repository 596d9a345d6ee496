# SPDX-License-Identifier: MIT
"""Parts of decoders' pages: sizes, attention over what came before, gated feed-forward layers, the way to logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from typing import Any, NamedTuple

from ..graph.config import ConfigReader, short
from ..graph.facts import Facts
from ..graph.family import Family
from ..graph.graph import Graph, Value
from ..graph.heads import Dense, HeadSpec, ScaleStep, SoftcapStep
from ..graph.names import Names
from ..graph.rotary import Rotary, build_rotary, read_scaling, theta_of
from ..graph.tasks import add_heads
from .blocks import ACTIVATIONS, MAX_HEAD_SIZE, MAX_LAYERS

__all__ = [
    "LAYER", "NAMES", "PROBES", "Sizes", "attend", "causal_family", "causal_heads", "embedded", "feed_forward",
    "layer_kinds", "look_back", "mixed", "rotaries_of", "rotary_of", "rotary_of_part", "sliding_layers", "window_of",
    "windows_between",
]  # fmt: skip

LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "attn_post_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm", "ffn_post_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_gate_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_up_exps": "mlp.experts.up_proj", "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate", "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj", "ffn_down_shexp": "mlp.shared_expert.down_proj",
}  # fmt: skip
"""Roles of a layer, as Llama's kin call them."""

NAMES = Names("model.", "layers.{i}.", LAYER, token_embd="embed_tokens", output_norm="norm")
"""As Llama's kin call their layers; the prefix is that of files with a head."""

PROBES = ("embed_tokens.weight", "norm.weight", "layers.0.input_layernorm.weight")
"""Tensors of every file, to see whether names have the prefix."""

_TENSORS = re.compile(r".*rotary_emb\..*|.*\.(masked_bias|attn\.bias)|(lm_head|score|classifier|qa_outputs)\..*")

_BOTH_WAYS = re.compile(r"\w+(Bi|Bidirectional)(Model|For[A-Z]\w*)")


class Sizes(NamedTuple):
    """What all decoders have."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    activation: str
    eps: float
    positions: int

    @classmethod
    def read(
        cls, c: ConfigReader, *, eps: float = 1e-6, kv_heads: int | None = None, head_size: int | None = None,
        activation: str = "silu", activations: Mapping[str, str] = ACTIVATIONS,
    ) -> Sizes:  # fmt: skip
        """As most files spell them; the arguments are defaults, else as many KV heads as heads, and hidden / heads.

        ``activations``: those that the family has, by their names in config.json.
        """
        hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
        size = c.size("head_dim", head_size or max(hidden // heads, 1))
        if not c.has("head_dim") and head_size is None and hidden % heads:
            raise ValueError(f"{c.path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        if size > MAX_HEAD_SIZE:
            raise ValueError(f"{c.path}: heads of {size}, expected at most {MAX_HEAD_SIZE}")
        shared = heads if c.null("num_key_value_heads") else kv_heads or heads
        sizes = cls(
            vocab=c.size("vocab_size"), hidden=hidden, layers=c.size("num_hidden_layers", maximum=MAX_LAYERS),
            heads=heads, kv_heads=c.size("num_key_value_heads", shared), head_size=size,
            inner=c.size("intermediate_size"), activation=c.choice("hidden_act", activations, activation),
            eps=c.positive("rms_norm_eps", eps), positions=c.size("max_position_embeddings"),
        )  # fmt: skip
        if heads % sizes.kv_heads:
            raise ValueError(
                f"{c.path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {sizes.kv_heads}"
            )
        return sizes

    @property
    def q_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def facts(self) -> Facts:
        return Facts(self.vocab, self.hidden, self.layers, self.heads, self.positions)


def rotary_of(c: ConfigReader, s: Sizes, *, base: float = 10000.0, interleaved: bool = False) -> Rotary:
    """By ``rope_parameters`` or the keys of files before transformers 5."""
    part = c.value("partial_rotary_factor")
    if part not in (None, 1, 1.0):
        raise ValueError(f"{c.path}: partial_rotary_factor is {str(part)[:100]!r}, expected 1")
    theta, scaling = read_scaling(c, base)
    return build_rotary(
        c, s.head_size, base=theta, scaling=scaling, positions=s.positions, interleaved=interleaved
    )  # fmt: skip


def rotary_of_part(
    c: ConfigReader, s: Sizes, part: float, *, base: float = 10000.0, interleaved: bool = False, odd: bool = False
) -> Rotary:  # fmt: skip
    """The first dims of a head turn: ``part`` of them, where rope_parameters says no ``partial_rotary_factor``.

    ``odd``: of an odd number R of dims one more turns, by the frequencies theta^(-2 i / R), as transformers does it in
    some families; in others it cannot run such models, and they are refused here.
    """
    theta, scaling = read_scaling(c, base)
    own = dict(scaling or {})
    inside = own.pop("partial_rotary_factor", None)
    part = part if inside is None else inside
    if type(part) not in (int, float) or not 0 < part <= 1:
        raise ValueError(f"{c.path}: partial_rotary_factor is {short(part)}, expected a number above 0, up to 1")
    dims = int(s.head_size * part)
    kind = own.get("rope_type") or own.get("type")
    if odd and dims % 2 and dims < s.head_size and kind in (None, "default", "linear"):
        # in decimal arithmetic, which is the same on every machine
        exact = Context(prec=40)
        theta = float(exact.power(Decimal(theta), exact.divide(Decimal(dims + 1), Decimal(dims))))
        dims += 1
    return build_rotary(
        c, dims, base=theta, scaling=own or None, positions=s.positions, interleaved=interleaved
    )  # fmt: skip


def rotaries_of(c: ConfigReader, s: Sizes, *, full: float, sliding: float) -> dict[str, Rotary]:
    """One for each kind of ``layer_types``; ``full`` and ``sliding`` are the bases where the file is silent.

    By ``rope_parameters`` of each kind, or the keys of files before transformers 5: ``rope_scaling`` is of the layers
    that see everything, ``rope_local_base_freq`` of the others.
    """
    nested = c.mapping("rope_parameters") or {}
    if nested and not nested.keys() & {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"{c.path}: rope_parameters is {str(nested)[:100]!r}, expected parameters of full_attention and of "
            "sliding_attention"
        )
    bases = {"full_attention": full, "sliding_attention": sliding}
    found = {}
    for kind, base in bases.items():
        own = nested.get(kind)
        if own is not None and not isinstance(own, dict):
            raise ValueError(f"{c.path}: {kind} of rope_parameters is {str(own)[:100]!r}, expected an object")
        old = (c.mapping("rope_scaling") or {}) if kind == "full_attention" else {}
        theta, scaling = theta_of(c, "rope_parameters", {**(own or {}), **old}, base)
        found[kind] = build_rotary(c, s.head_size, base=theta, scaling=scaling or None, positions=s.positions)
    return found


def window_of(c: ConfigReader, default: int | None = None) -> int | None:
    """``sliding_window``; null is None."""
    if c.null("sliding_window") or (default is None and not c.has("sliding_window")):
        return None
    return c.size("sliding_window", default)


def sliding_layers(c: ConfigReader, s: Sizes) -> list[int | None]:
    """The window of each layer where ``use_sliding_window`` says so: by ``layer_types``, else from
    ``max_window_layers`` on.
    """
    used, kinds = c.flag("use_sliding_window", False), layer_kinds(c, s)
    first = c.size("max_window_layers", 28, minimum=0)
    if not used:
        if kinds is not None and "sliding_attention" in kinds:
            raise ValueError(f"{c.path}: layer_types has sliding_attention, but use_sliding_window is false")
        return [None] * s.layers
    size = window_of(c, 4096)
    if kinds is None:
        return [size if i >= first else None for i in range(s.layers)]
    return [size if kind == "sliding_attention" else None for kind in kinds]


def windows_between(c: ConfigReader, s: Sizes, every: int, size: int) -> list[int | None]:
    """The window of each layer: by ``layer_types``, else of all but each ``every``-th; ``size``: its default."""
    kinds = layer_kinds(c, s)
    slides = [(i + 1) % every != 0 if kinds is None else kinds[i] == "sliding_attention" for i in range(s.layers)]
    window = window_of(c, size)
    if window is None and any(slides):
        raise ValueError(f"{c.path}: sliding_window is null, expected a size: there are layers of sliding_attention")
    return [window if flag else None for flag in slides]


def layer_kinds(c: ConfigReader, s: Sizes) -> tuple[str, ...] | None:
    """``layer_types``, one for each layer; None where the file has none."""
    kinds = c.words("layer_types", ("full_attention", "sliding_attention"))
    if kinds is not None and len(kinds) != s.layers:
        raise ValueError(f"{c.path}: layer_types has {len(kinds)} entries, expected {s.layers}, num_hidden_layers")
    return kinds


def embedded(g: Graph, s: Sizes, tied: bool) -> Value:
    """The row of each token in the table of words; ``tied``: the head's are the same, and may be what is stored."""
    words = g.words("token_embd", (s.vocab, s.hidden), tied="lm_head.weight" if tied else None)
    return g.embed({"ids": words}, s.hidden)


def look_back(g: Graph, q: Value, k: Value, v: Value, s: Sizes, window: int | None, **more: Any) -> Value:
    """Attention in which each row sees itself and what came before; ``window``: how many, itself included.

    ``more``: see ``Graph.attention``.
    """
    seen = None if window is None else (window - 1, 0)
    return g.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True, window=seen, **more)


def mixed(
    g: Graph, qkv: Value, s: Sizes, rotary: Rotary | None, window: int | None, scale: float | None = None
) -> Value:
    """Attention of heads side by side, turned by their positions: each row sees itself and what came before.

    ``window``: how many of them, itself included.
    """
    qk, v = g.split(qkv, s.q_width + s.kv_width, s.kv_width)
    if rotary is not None:
        qk = g.rope(qk, s.heads + s.kv_heads, rotary)
    q, k = g.split(qk, s.q_width, s.kv_width)
    return look_back(g, q, k, v, s, window, scale=scale)


def attend(
    g: Graph, x: Value, s: Sizes, rotary: Rotary | None, window: int | None, *, bias: bool, output_bias: bool
) -> Value:  # fmt: skip
    """output(attention(q, k, v)), each a layer of its own."""
    qkv = g.linear(x, ("attn_q", "attn_k", "attn_v"), (s.q_width, s.kv_width, s.kv_width), bias=bias)
    return g.linear(mixed(g, qkv, s, rotary, window), "attn_output", s.hidden, bias=output_bias)


def feed_forward(g: Graph, x: Value, s: Sizes, *, bias: bool = False) -> Value:
    """down(act(gate(x)) up(x))"""
    gate, up = g.split(g.linear(x, ("ffn_gate", "ffn_up"), s.inner, bias=bias), s.inner, s.inner)
    return g.linear(g.gated(gate, up, s.activation), "ffn_down", s.hidden, bias=bias)


def causal_heads(
    g: Graph, x: Value, s: Sizes, *, tied: bool, factor: float = 1.0, cap: float = 0.0,
    name: str = "lm_head", bias: bool = False, tokens: str = "score",
) -> None:  # fmt: skip
    """Hidden states and, where the file has such a head, logits: of all rows, or of those a batch wants to know of.

    Logits are multiplied by ``factor``, and held below ``cap`` by tanh, where that is not 0.
    ``name``: what the file calls the layer.

    Other files have a layer ``score``, which labels the last token of a sequence that is no padding, or one that is
    called ``tokens`` and, with a bias, labels each of them.
    """
    g.output("hidden", x)
    words = f"{g.name('token_embd')}.weight"
    layer = Dense(name, s.vocab, x.width, bias=bias, tied=words if tied else None, large=True)
    scaled = () if factor == 1 else (ScaleStep(factor),)
    steps = (layer, *scaled, *((SoftcapStep(cap),) if cap else ()))
    score, biased = Dense("score", 0, x.width, bias=False), g.config.flag("token_classification_bias", True)
    token = g.config.value("pad_token_id")
    padding = token if type(token) is int else None
    add_heads(
        g, x, causal_lm=lambda: HeadSpec("causal_lm", "all", steps),
        sequence_classification=lambda: HeadSpec(
            "sequence_classification", "last", (score,), labelled=True, padding=padding
        ),
        token_classification=lambda: HeadSpec(
            "token_classification", "all", (score._replace(name=tokens, bias=biased),), labelled=True
        ),
    )  # fmt: skip
    if g.tasks.head is not None and g.tasks.head.kind == "causal_lm":
        g.output("logits", g.tasks.head.record(g, g.outputs(x)))


def causal_family(name: str, build: Callable[[Graph], Facts], *families: str, ignorable: str | None = None) -> Family:
    """A family of decoders whose classes are called ``families`` + Model, ForCausalLM and the like.

    ``ignorable``: a pattern of full names of further tensors that the model may leave unused.
    """

    def page(g: Graph) -> Facts:
        _refuse_bidirectional(g.config)
        return build(g)

    heads: dict[str, str | None] = {}
    for family in families:
        heads |= {
            f"{family}Model": None, f"{family}ForCausalLM": "causal_lm",
            f"{family}ForSequenceClassification": "sequence_classification",
            f"{family}ForTokenClassification": "token_classification",
        }  # fmt: skip
    unused = _TENSORS if ignorable is None else re.compile(f"{_TENSORS.pattern}|{ignorable}")
    return Family(name, page, heads, unused, pooled_output=False, decoder=True)


def _refuse_bidirectional(c: ConfigReader) -> None:
    """Embedding models that were made of decoders may let every token see all others: by a key that transformers has,
    or by code of their own under a name that says it.
    """
    for name in c.architectures():
        if _BOTH_WAYS.fullmatch(name[:200]):
            raise ValueError(
                f"{c.path}: architectures has {name[:100]!r}: decoders whose tokens see those behind them are not "
                "supported"
            )
    for key, usual in (("is_causal", True), ("use_bidirectional_attention", False)):
        found = c.value(key)
        if found is not None and found is not usual:
            raise ValueError(
                f"{c.path}: {key} is {str(found)[:40].lower()}: decoders whose tokens see those behind them are not "
                f"supported, expected {str(usual).lower()}"
            )
