# SPDX-License-Identifier: MIT
"""Models of GGUF files whose layers are blocks: kept, near the dequantised model, the same bits everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from support import gguf_models, gguf_moe
from support.gguf_files import Tensor, finite_blocks, gguf_bytes
from support.inputs import generator
from support.lora_files import pairs, peft_tensors, save_peft

import fastattn as fa
from fastattn import _testing
from fastattn.loaders.errors import WeightFileError
from fastattn.models.registry import build_checkpoint, open_source
from fastattn.quants import QUANT_TYPES
from fastattn.weights import PackedLinear

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
}
Kind = Callable[[str], str]


def write(path: Path, kind: str | Kind, family: str = "llama", **overrides: Any) -> Path:
    """A GGUF file whose matrices are random blocks: of one type, or of what ``kind`` says of a tensor's name."""
    c = tiny_decoders.config(family, **{**SIZES, **overrides})
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float16")
    for name, array in tensors.items():
        if name.endswith("weight") and array.ndim == 2:
            own = kind if isinstance(kind, str) else kind(name)
            blocks = finite_blocks(own, array.shape, generator("model", name, own), 0.1)
            tensors[name] = Tensor(own, array.shape, blocks.tobytes())
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), tensors))
    return path


def dtypes(path: Path) -> set[str]:
    """Of its layers."""
    made = build_checkpoint(open_source(path, None, None))[1].made
    return {layer.dtype for layer in made.values() if isinstance(layer, PackedLinear)}


def logits(model: Any) -> np.ndarray[Any, Any]:
    return np.asarray(model([list(range(3, 40))]).logits)


@pytest.mark.parametrize("kind", QUANT_TYPES)
def test_every_type(tmp_path: Path, kind: str) -> None:
    """Logits are the dequantised model's but for the rounding of inputs; packed, threads, ISAs, one plane."""
    path = write(tmp_path / "m.gguf", kind)
    model, exact = fa.load(path), logits(fa.load(path, "float32"))
    found = logits(model)
    assert dtypes(path) == {kind}
    assert np.abs(found - exact).max() < 3e-3 * np.abs(exact).max()
    assert found.tobytes() != exact.tobytes()
    coarse = fa.load(path, activations="int8")
    assert 0 < np.abs(logits(coarse) - exact).max() < 0.3 * np.abs(exact).max()
    assert logits(fa.load(path, activations="int16")).tobytes() == found.tobytes()
    packed = fa.pack(path, tmp_path / "m.fastattn")
    assert logits(fa.load(packed)).tobytes() == found.tobytes()
    assert logits(fa.load(packed, activations="int8")).tobytes() == logits(coarse).tobytes()
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            assert logits(fa.load(path, num_threads=2)).tobytes() == found.tobytes(), isa


def test_types_of_one_product(tmp_path: Path) -> None:
    """Queries, keys and values of several types are one product, whose rows are those of the file in their order."""
    kinds = {"attn_q": "Q4_K", "attn_k": "Q5_0", "attn_v": "Q6_K", "ffn_gate": "Q4_0", "ffn_up": "Q8_0"}
    path = write(tmp_path / "m.gguf", lambda name: kinds.get(name.split(".")[-2], "Q4_1"))
    model = fa.load(path)
    assert {"Q4_K+Q5_0+Q6_K", "Q4_0+Q8_0", "Q4_1"} == dtypes(path)
    exact = logits(fa.load(path, "float32"))
    assert np.abs(logits(model) - exact).max() < 3e-3 * np.abs(exact).max()
    metadata = fa.open_weights(fa.pack(path, tmp_path / "m.fastattn")).metadata
    assert (metadata["dtype"], metadata["dequantized"]) == ("stored", "")
    assert metadata["gguf_types"] == "F32 Q4_0 Q4_1 Q4_K Q5_0 Q6_K Q8_0"


def test_types_that_cannot_be_one_product(tmp_path: Path) -> None:
    """A panel of 16 outputs has one type: else the product becomes float32, and the model says so."""
    kinds = {"attn_q": "Q8_0", "attn_k": "Q4_0", "attn_v": "Q8_0"}
    path = write(
        tmp_path / "m.gguf", lambda name: kinds.get(name.split(".")[-2], "Q8_0"), num_attention_heads=8,
        num_key_value_heads=1, head_dim=4,
    )  # fmt: skip
    model = fa.load(path)
    assert sorted(dtypes(path)) == ["Q8_0", "float32"]
    notes = [note for note in model.notes if "became float32" in note]
    assert len(notes) == 2 and "tensors 'blk.0.attn_q.weight', 'blk.0.attn_v.weight'" in notes[0]
    assert "of type Q4_0" in notes[1]
    exact = logits(fa.load(path, "float32"))
    assert np.abs(logits(model) - exact).max() < 3e-3 * np.abs(exact).max()


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K"])
def test_types_without_panels(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "m.gguf", lambda name: kind if "ffn_down" in name else "Q4_K")
    model = fa.load(path)
    assert sorted(dtypes(path)) == ["Q4_K", "float32"]
    assert any(f"of type {kind} became float32" in note for note in model.notes)
    packed = fa.pack(path, tmp_path / "m.fastattn")
    assert fa.open_weights(packed).metadata["dequantized"] == kind
    assert logits(fa.load(packed)).tobytes() == logits(model).tobytes()


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "olmo2"])
def test_a_text_cut_anywhere(tmp_path: Path, family: str) -> None:
    """One token after the other, in pieces, in batches: the bits of the whole."""
    model = fa.load(write(tmp_path / "m.gguf", "Q4_K", family, **({"head_dim": 64} if family == "qwen3" else {})))
    texts = [list(range(3, 3 + n)) for n in (1, 5, 20, 33)]
    scores = [model.score([text]) for text in texts]
    assert [model.score(texts)[i] for i in range(4)] == [one[0] for one in scores]
    whole = model.generate(texts, max_new_tokens=6, temperature=0, ignore_eos=True)
    for text, together in zip(texts, whole, strict=True):
        alone = model.generate([text], max_new_tokens=6, temperature=0, ignore_eos=True)[0]
        assert (alone.token_ids, alone.logprobs) == (together.token_ids, together.logprobs)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("kind", ["Q8_0", "MXFP4"])
def test_experts(tmp_path: Path, family: str, kind: str) -> None:
    """Blocks of experts too; each is as near its dequantised one."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    inner = "moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size"
    more = {"swiglu_limit": 7.0} if family == "gpt_oss" else {}
    path = gguf_moe.make(tmp_path / "m.gguf", family, blocks=kind, **sizes, **{inner: 64}, **more)
    model = fa.load(path)
    assert kind in dtypes(path)
    exact = logits_of_model(fa.load(path, "float32"))
    found = logits_of_model(model)
    assert np.abs(found - exact).max() < 3e-3 * np.abs(exact).max()
    packed = fa.load(fa.pack(path, tmp_path / "m.fastattn"))
    assert logits_of_model(packed).tobytes() == found.tobytes()
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            assert logits_of_model(fa.load(path)).tobytes() == found.tobytes(), isa


def logits_of_model(model: Any) -> np.ndarray[Any, Any]:
    return np.asarray(model([[5, 9, 17, 3, 40, 77, 8, 2]]).logits)


def test_a_scale_that_is_no_number(tmp_path: Path) -> None:
    """The file, the tensor and its row are named."""
    c = tiny_decoders.config("llama", **SIZES)
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float16")
    for part in ("ffn_gate", "ffn_up"):
        shape = tensors[f"blk.1.{part}.weight"].shape
        blocks = finite_blocks("Q8_0", shape, generator(part))
        if part == "ffn_up":
            blocks[77, 34:36] = (0, 0x7C)
        tensors[f"blk.1.{part}.weight"] = Tensor("Q8_0", shape, blocks.tobytes())
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), tensors))
    with pytest.raises(WeightFileError, match="m.gguf: tensor blk.1.ffn_up.weight: a block of row 77 has a scale that"):
        fa.load(path)


def test_activations_of_models_without_blocks(tmp_path: Path) -> None:
    path = gguf_models.make(tmp_path / "m.gguf", "llama")
    blocks = write(tmp_path / "b.gguf", "Q8_0")
    for where, options in ((path, {}), (blocks, {"dtype": "float32"}), (fa.pack(path, tmp_path / "m.fastattn"), {})):
        with pytest.raises(ValueError, match=r"activations: got 'int8', but .* has no block-quantised weights"):
            fa.load(where, activations="int8", **options)
    with pytest.raises(ValueError, match="activations: got 'int4', expected one of int16, int8"):
        fa.load(blocks, activations="int4")


def test_the_text_of_a_model_of_blocks_is_one_of_its_copies(tmp_path: Path) -> None:
    import pickle

    model = fa.load(write(tmp_path / "m.gguf", "Q4_0"), activations="int8")
    assert logits(pickle.loads(pickle.dumps(model))).tobytes() == logits(model).tobytes()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_int4_of_a_folder(tmp_path: Path, family: str) -> None:
    """4 bits of our own: the layers of the dequantised weights, packed, and as other folders are."""
    folder = tiny_decoders.make(tmp_path / "folder", family, dtype="float32")
    model, exact = fa.load(folder, "int4"), logits(fa.load(folder, "float32"))
    found = logits(model)
    assert 0 < np.linalg.norm(found - exact) < 0.5 * np.linalg.norm(exact)
    packed = fa.pack(folder, tmp_path / "m.fastattn", "int4")
    assert fa.open_weights(packed).metadata["dtype"] == "int4"
    assert logits(fa.load(packed)).tobytes() == found.tobytes()
    assert logits(fa.load(packed, "int4", activations="int8")).tobytes() != found.tobytes()
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            assert logits(fa.load(folder, "int4")).tobytes() == found.tobytes(), isa


def test_words_are_blocks_too(tmp_path: Path) -> None:
    """The table of words and a tied layer in front of the logits are one object, in packed files too."""
    path = write(tmp_path / "m.gguf", "Q6_K", tie_word_embeddings=True)
    built, source = build_checkpoint(open_source(path, None, None))
    layers = [made for made in source.made.values() if isinstance(made, PackedLinear) and made.out_features == 101]
    assert len(layers) == 2 and layers[0] is layers[1] and layers[0].dtype == "Q6_K"
    packed = fa.pack(path, tmp_path / "m.fastattn")
    file = fa.open_weights(packed)
    assert sum(name.endswith("/panels") and file.shape(name)[0] == 7 for name in file) == 1
    assert logits(fa.load(packed)).tobytes() == logits(fa.load(path)).tobytes()
    exact = logits(fa.load(path, "float32"))
    assert np.abs(logits(fa.load(path)) - exact).max() < 3e-3 * np.abs(exact).max()


def test_panels_of_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.gguf", "Q4_0")
    monkeypatch.setattr("fastattn.models.packing.PANELS", "7")
    monkeypatch.setattr("fastattn.models.packing._can_be_loaded", lambda path: None)
    packed = fa.pack(path, tmp_path / "m.fastattn")
    with pytest.raises(WeightFileError, match="blocks are in panels of format '7', but this library reads format '1'"):
        fa.load(packed)


def test_adapters(tmp_path: Path) -> None:
    """Layers that an adapter changes become float32, of the dequantised weights; all others are the model's own."""
    path = write(tmp_path / "m.gguf", "Q5_K", tie_word_embeddings=True)
    plain = tmp_path / "plain.gguf"
    values = fa.open_weights(path)
    c = tiny_decoders.config("llama", **SIZES, tie_word_embeddings=True)
    plain.write_bytes(gguf_bytes(gguf_models.fields_of(c), {name: values.as_float32(name) for name in values}))
    changed = ("layers.0.self_attn.k_proj", "layers.1.mlp.down_proj")
    adapter = save_peft(tmp_path / "peft", peft_tensors(pairs(tiny_decoders.shapes(c), changed)))
    expected = fa.load(plain).load_adapter(adapter).graph.made
    attention = "+".join(f"model.layers.0.self_attn.{one}_proj" for one in "qkv")
    new = {attention, "model.layers.1.mlp.down_proj"}
    found = {}
    for base in (path, fa.pack(path, tmp_path / "m.fastattn")):
        model = fa.load(base)
        tuned = model.load_adapter(adapter)
        assert {key for key, made in tuned.graph.made.items() if made is not model.graph.made[key]} == new
        for key in new:
            layer, same = tuned.graph.made[key], expected[key]
            assert isinstance(layer, PackedLinear) and isinstance(same, PackedLinear)
            assert layer.dtype == "float32" and layer.panels.tobytes() == same.panels.tobytes()
        found[base.suffix] = logits(tuned).tobytes()
    assert found[".gguf"] == found[".fastattn"] != logits(fa.load(path)).tobytes()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [None, "int4"])
def test_rounding_for_logits(tmp_path: Path, tied: bool, dtype: str | None) -> None:
    """With inputs of 7 bits too, those of the layer that words are chosen by keep 15."""
    overrides = {"tie_word_embeddings": tied}
    if dtype is None:
        where = write(tmp_path / "m.gguf", "Q6_K", **overrides)
    else:
        where = tiny_decoders.make(tmp_path / "folder", "llama", dtype="float32", **overrides)
    source = build_checkpoint(open_source(where, dtype, None, activations="int8"))[1]
    layers = {key: made for key, made in source.made.items() if isinstance(made, PackedLinear)}
    assert {layer.activations for layer in layers.values()} == {"int8", "int16"}
    for key, layer in layers.items():
        assert layer.activations == ("int16" if layer.out_features == 101 else "int8"), key
    packed = fa.pack(where, tmp_path / "m.fastattn", dtype)
    found = logits(fa.load(where, dtype, activations="int8"))
    assert logits(fa.load(packed, activations="int8")).tobytes() == found.tobytes()
