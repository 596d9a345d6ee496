# SPDX-License-Identifier: MIT
"""Feed-forward layers of experts, of which each token takes a few: how files name them, and what GGUF files say.

    y = sum over the chosen e, the best first, of w_e down_e(act(gate_e(x)) up_e(x)),  w from router(x)

Shazeer et al., 2017, https://arxiv.org/abs/1701.06538; Fedus et al., 2021, https://arxiv.org/abs/2101.03961.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..graph.banks import Bank, Form
from ..graph.config import ConfigReader
from ..graph.graph import Graph, Value
from .ggufkeys import Keys, Values

__all__ = ["MOST_EXPERTS", "Experts", "expert_banks", "experts_of_gguf", "routed", "shared_banks"]

MOST_EXPERTS = 65536
"""Of a layer: their numbers are exact as float32, and far more than any model has."""

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


class Experts(NamedTuple):
    """What configurations say of a model's experts."""

    number: int
    top: int
    """How many a token takes."""
    inner: int
    counted: str
    """The key that says how many there are."""

    @classmethod
    def read(cls, c: ConfigReader, inner: str) -> Experts:
        """``inner``: the key of the width between an expert's two products."""
        said = [key for key in _COUNTS if c.has(key)]
        key = said[0] if said else _COUNTS[0]
        count = c.size(key, maximum=MOST_EXPERTS)
        for other in said[1:]:
            if c.size(other) != count:
                raise ValueError(f"{c.path}: {key} is {count}, but {other} is {c.size(other)}")
        return cls(count, c.size("num_experts_per_tok", maximum=count), c.size(inner), key)


def expert_banks(
    g: Graph, e: Experts, hidden: int, *, up: tuple[Form, ...] = (), down: tuple[Form, ...] = (), biased: bool = False
) -> tuple[Bank, Bank]:  # fmt: skip
    """What is asked of a layer's experts: [gate | up] and down.

    As most files have them: a tensor for each expert and layer; transformers' own tensors of all experts, gates in
    front of what they gate; GGUF's, likewise or apart. ``up``, ``down``: forms of one family, which are looked for
    first; with ``biased``, beside GGUF's, alone.
    """
    roles = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    names = [g.name(role) for role in roles]
    place = names[0].rpartition(".")[0]
    if not biased:
        each = [f"{place}.{{e}}.{name.rpartition('.')[2]}.weight" for name in names]
        up = (*up, Form((each[0], each[1]), apart=True), Form((f"{place}.gate_up_proj",)))
        down = (*down, Form((each[2],), apart=True), Form((f"{place}.down_proj",)))
    stacked = [[f"{name}.{part}" for name in names] for part in ("weight", "bias")]
    joined = [(f"{place}.gate_up_proj.{part}",) for part in ("weight", "bias")]
    biases = [(*stacked[1][:2],), joined[1], (stacked[1][2],)] if biased else [(), (), ()]
    up = (*up, Form(joined[0], biases[1]), Form((*stacked[0][:2],), biases[0]))
    down = (*down, Form((stacked[0][2],), biases[2]))
    return (
        Bank(f"{place}.gate_up", e.number, 2 * e.inner, hidden, up, biased, e.counted),
        Bank(f"{place}.down", e.number, hidden, e.inner, down, biased, e.counted),
    )


def shared_banks(g: Graph, roles: tuple[str, str, str], inner: int, hidden: int) -> tuple[Bank, Bank]:
    """What is asked of an expert that all tokens take: gate, up and down are layers like any other."""
    gate, up, down = (f"{g.name(role)}.weight" for role in roles)
    place = gate.removesuffix(".weight").rpartition(".")[0]
    return (
        Bank(f"{place}.gate_up", 1, 2 * inner, hidden, (Form((gate, up), apart=True),), False, ""),
        Bank(f"{place}.down", 1, hidden, inner, (Form((down,), apart=True),), False, ""),
    )


def routed(g: Graph, x: Value, e: Experts, *, bias: bool = False, **options: Any) -> Value:
    """Routes by the layer ``ffn_gate_inp``, whose weights are float32 in every storage type: rounding must not choose
    other experts. ``options`` of ``Graph.route``.
    """
    return g.route(g.linear(x, "ffn_gate_inp", e.number, bias=bias, dtype="float32"), e.top, **options)


def experts_of_gguf(keys: Keys, count: str, *, normalized: bool | None) -> Values:
    """How many experts there are, under the key ``count``, and of how many a token takes.

    ``normalized``: what the weights' division by their sum is where the file says nothing of it; None where it is no
    question of the family's.
    """
    keys.must("expert_gating_func", 1)  # softmax
    keys.must("expert_weights_scale", 0.0, 1.0)
    for key in ("expert_group_count", "expert_group_used_count"):
        keys.must(key, 0, 1)
    values: Values = {count: keys.size("expert_count"), "num_experts_per_tok": keys.size("expert_used_count")}
    said = None if keys.all_of_them else keys.get("expert_weights_norm")
    if said is not None and type(said) is not bool:
        raise keys.error("expert_weights_norm", said, "true or false")
    if normalized is not None:
        values["norm_topk_prob"] = normalized if said is None else said
    elif said is False:
        raise keys.error("expert_weights_norm", said, "true: other models are not supported")
    return values
