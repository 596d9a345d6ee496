# SPDX-License-Identifier: MIT
"""What decoders with experts cost: those that are taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden import tiny_moe

import fastattn
from fastattn.bench.costs import Costs, Experts, costs_of


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_costs_of_experts(tmp_path: Path, family: str) -> None:
    c = tiny_moe.config(family)
    number, top, layers = tiny_moe.experts(c), c["num_experts_per_tok"], c["num_hidden_layers"]
    shapes = {name: shape for name, shape in tiny_moe.shapes(c).items() if len(shape) == 2 and "embed" not in name}
    matrices = {name: int(np.prod(shape)) for name, shape in shapes.items() if name != "lm_head.weight"}
    of_experts = sum(size for name, size in matrices.items() if ".experts." in name)
    costs = costs_of(fastattn.load(tiny_moe.make(tmp_path, family), "float32"))
    assert costs.token_flops == 2 * (sum(matrices.values()) - of_experts + of_experts * top // number)
    assert [(each.number, each.top) for each in costs.experts] == [(number, top)] * layers
    assert sum(each.nbytes for each in costs.experts) >= 4 * of_experts  # panels are filled up
    table = 4 * int(np.prod(tiny_moe.shapes(c)["model.embed_tokens.weight"]))
    assert costs.kept_bytes == costs.read_bytes + table + sum(each.nbytes for each in costs.experts)
    one, many = (costs.decode_bytes(0, 1, batch, "float32") for batch in (1, 1000))
    keys = one - costs.read_bytes - sum(round(each.nbytes * top / number) for each in costs.experts)
    assert many == costs.kept_bytes - table + 1000 * keys
    assert Costs.from_json(json.loads(json.dumps(costs.as_json()))) == costs


def test_bytes_that_tokens_take_together() -> None:
    each = Experts(8, 2, 800)
    assert [each.read_bytes(tokens) for tokens in (0, 1, 2, 100)] == [0, 200, 350, 800]
    assert Experts(3, 3, 9).read_bytes(1) == 9
