# SPDX-License-Identifier: MIT
"""Rotary embedding beside transformers (every rope_type, Llama's and GPT-J's rotation) and ONNX's RotaryEmbedding.

Run with ``pytest -m parity`` where they are installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.inputs import generator, normal

import fastattn as fa
from fastattn.rope_scaling import ROPE_TYPES, rope_frequencies

pytestmark = pytest.mark.parity
F32 = np.float32

FACTORS = [float(1 + i / 7) for i in range(32)]
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.5},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096},
    "yarn, no factor": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 1024},
    "yarn, DeepSeek": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
        "mscale": 1.0, "mscale_all_dim": 0.7,
    },
    "yarn, not truncated": {
        "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 20.0,
        "beta_slow": 1.5, "truncate": False,
    },
    "yarn, attention": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "attention_factor": 1.5,
    },
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "longrope": {
        "rope_type": "longrope", "short_factor": FACTORS, "long_factor": [2 * f for f in FACTORS],
        "original_max_position_embeddings": 2048,
    },
    "longrope, attention": {
        "rope_type": "longrope", "short_factor": FACTORS, "long_factor": [2 * f for f in FACTORS],
        "original_max_position_embeddings": 2048, "attention_factor": 1.2, "factor": 4.0,
    },
}  # fmt: skip


def rotary_of(scaling: dict[str, Any], theta: float) -> Any:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=4, max_position_embeddings=8192,
        rope_parameters={**scaling, "rope_theta": theta},
    )  # fmt: skip
    return LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_and_tables_of_transformers(name: str, theta: float) -> None:
    torch = pytest.importorskip("torch")

    for length in (8000, 9000):
        rotary = rotary_of(SCALINGS[name], theta)
        at = np.array([0, 1, 2, 17, 100, 1000, 2047, 2048, 4096, 8000, length - 1])
        theirs = [x[0, :, :32].numpy() for x in rotary(torch.zeros(1), torch.from_numpy(at)[None])]
        ours = rope_frequencies(64, theta, SCALINGS[name], 8192, length)
        inverse = rotary.inv_freq.numpy()
        assert np.allclose(ours.radians, inverse, rtol=1e-6, atol=0), f"{name} at length {length}"
        assert abs(ours.attention_factor - rotary.attention_scaling) <= 1e-6
        table = fa.rope_table(at, 64, base=theta, scaling=SCALINGS[name], max_position_embeddings=8192, seq_len=length)
        # Theirs multiplies a position by a rounded frequency and rounds again: that much an angle may be off.
        slack = at[:, None] * np.abs(np.array(ours.radians) - inverse)
        slack = ours.attention_factor * (slack + np.spacing((at[:, None] * inverse).astype(F32)) / 2)
        for mine, other in zip(table, theirs, strict=True):
            assert (np.abs(mine - other) <= 1e-6 + slack).all(), f"{name} at length {length}"
            small = slack < 1e-7
            assert small.sum() > 100 and np.abs(mine - other)[small].max() <= 1e-6


def test_the_rotation_of_llama() -> None:
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    rng = generator("llama")
    q, k = normal(rng, 2, 4, 50, 64), normal(rng, 2, 2, 50, 64)
    cos, sin = fa.rope_table(200, 64)
    at = rng.integers(0, 200, (2, 50))
    full = [torch.from_numpy(np.concatenate([table[at], table[at]], -1)) for table in (cos, sin)]
    theirs = llama.apply_rotary_pos_emb(torch.from_numpy(q), torch.from_numpy(k), *full)
    for x, other in zip((q, k), theirs, strict=True):
        assert np.abs(fa.rope(x, cos, sin, position_ids=at) - other.numpy()).max() <= 4e-7 * np.abs(x).max()
        given = fa.rope(torch.from_numpy(x), full[0][..., :32], full[1][..., :32])
        assert np.abs(given - other.numpy()).max() <= 4e-7 * np.abs(x).max()
    halves = torch.from_numpy(q).to(torch.bfloat16)
    got = torch.from_numpy(fa.rope(halves, cos, sin, position_ids=at)).view(torch.bfloat16).float().numpy()
    exact = fa.rope(halves.float().numpy(), cos, sin, position_ids=at)
    assert (np.abs(got - exact) <= 2.0**-8 * np.abs(exact) + 1e-30).all()


def test_the_rotation_of_gptj() -> None:
    torch = pytest.importorskip("torch")
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    rng = generator("gptj")
    x = normal(rng, 2, 50, 4, 32)  # (B, S, H, D)
    cos, sin = fa.rope_table(50, 32)
    theirs = gptj.apply_rotary_pos_emb(torch.from_numpy(x), torch.from_numpy(sin)[None], torch.from_numpy(cos)[None])
    got = fa.rope(x.swapaxes(1, 2), cos, sin, position_ids=np.arange(50), interleaved=True).swapaxes(1, 2)
    assert np.abs(got - theirs.numpy()).max() <= 4e-7 * np.abs(x).max()


def onnx_results(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, at: np.ndarray | None, **attributes: int) -> Any:
    """(engine, result) of ONNX's own evaluator and of ONNX Runtime, as far as each takes the model."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx.reference import ReferenceEvaluator

    feeds = {"x": x, "cos": cos, "sin": sin} | ({} if at is None else {"at": at})
    kinds = {np.dtype(F32): onnx.TensorProto.FLOAT, np.dtype(np.int64): onnx.TensorProto.INT64,
             np.dtype(np.float16): onnx.TensorProto.FLOAT16}  # fmt: skip
    inputs = [onnx.helper.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in feeds.items()]
    output = onnx.helper.make_tensor_value_info("y", kinds[x.dtype], x.shape)
    node = onnx.helper.make_node("RotaryEmbedding", list(feeds), ["y"], **attributes)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", inputs, [output]), opset_imports=[onnx.helper.make_opsetid("", 23)],
        ir_version=10,
    )  # fmt: skip
    yield "onnx", ReferenceEvaluator(model).run(None, feeds)[0]
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    yield "onnxruntime", session.run(None, feeds)[0]


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotary", [64, 32])
def test_rotary_embedding_of_onnx(rotary: int, interleaved: int, positions: bool) -> None:
    rng = generator("onnx", rotary, interleaved, positions)
    x = normal(rng, 2, 3, 10, 64)
    cos, sin = fa.rope_table(40, rotary)
    at = rng.integers(0, 40, (2, 10))
    ours = fa.rope(x, cos, sin, position_ids=at, interleaved=bool(interleaved), rotary_dim=rotary)
    feeds = (cos, sin, at) if positions else (cos[at], sin[at], None)
    attributes = {"interleaved": interleaved} | ({"rotary_embedding_dim": rotary} if rotary < 64 else {})
    for engine, theirs in onnx_results(x, *feeds, **attributes):
        assert np.abs(ours - theirs).max() <= 4e-7 * np.abs(x).max(), engine


def test_rotary_embedding_of_onnx_in_three_dimensions() -> None:
    """(B, S, H * D) with num_heads: here x.reshape(B, S, H, D).swapaxes(1, 2)."""
    rng = generator("onnx 3")
    x = normal(rng, 2, 10, 3 * 16)
    cos, sin = fa.rope_table(40, 16)
    at = rng.integers(0, 40, (2, 10))
    ours = fa.rope(x.reshape(2, 10, 3, 16).swapaxes(1, 2), cos, sin, position_ids=at).swapaxes(1, 2).reshape(x.shape)
    for engine, theirs in onnx_results(x, cos, sin, at, num_heads=3):
        assert np.abs(ours - theirs).max() <= 4e-7 * np.abs(x).max(), engine


def test_every_type_is_compared() -> None:
    """But for "ntk", which transformers does not have: test_rope_table.py holds it against its formula."""
    assert {scaling["rope_type"] for scaling in SCALINGS.values()} == set(ROPE_TYPES) - {"ntk"}
