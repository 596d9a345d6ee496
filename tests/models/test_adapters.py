# SPDX-License-Identifier: MIT
"""``load_adapter``: the bits of the model whose weights were changed by hand."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert, tiny_decoders, tiny_families, tiny_latent, tiny_models, tiny_moe
from support import gguf_latent, gguf_models
from support.gguf_files import gguf_bytes
from support.lora_files import ALPHA, Array, R, gguf_adapter, merged, pair, pairs, peft_tensors, save_model, save_peft

import fastattn as fa
from fastattn.graph.adapted import Asked, Merged
from fastattn.loaders.lora import LowRank

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, pairs in GGUF": ("llama", {}),
    "mistral, a llama there": ("mistral", {"sliding_window": None}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "phi3, joined layers": ("phi3", {}),
    "granite": ("granite", {"num_key_value_heads": 3}),
    "olmo2": ("olmo2", {}),
    "smollm3, tied": ("smollm3", {}),
}
SOME = ("layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.qkv_proj", "layers.1.mlp.up_proj",
        "layers.1.mlp.gate_up_proj", "layers.2.mlp.down_proj", "lm_head")  # fmt: skip


def logits(model: Any) -> bytes:
    ids, mask = tiny_decoders.batch({"vocab_size": 101})
    return bytes(model(ids, mask).logits.tobytes())


class Tiny:
    """A decoder's config and tensors, and its folder."""

    def __init__(self, folder: Path, family: str = "llama", **overrides: Any) -> None:
        self.c = tiny_decoders.config(family, **overrides)
        self.arrays = tiny_decoders.tensors(self.c)
        self.shapes = tiny_decoders.shapes(self.c)
        self.folder = save_model(folder / "base", self.c, self.arrays)
        self.place = folder

    def other(self, arrays: dict[str, Array], dtype: Any = None, name: str = "by-hand", **config: Any) -> Any:
        """A model of other tensors."""
        return fa.load(save_model(self.place / name, {**self.c, **config}, arrays), dtype)


@pytest.mark.parametrize("name", FAMILIES)
def test_peft_and_gguf_on_folder_gguf_and_packed_file(tmp_path: Path, name: str) -> None:
    family, overrides = FAMILIES[name]
    tiny = Tiny(tmp_path, family, **overrides)
    found = pairs(tiny.shapes, SOME)
    assert len(found) >= 4
    adapters = [
        save_peft(tmp_path / "peft", peft_tensors(found)),
        gguf_adapter(tmp_path / "a.gguf", tiny.c, found),
    ]  # fmt: skip
    expected = logits(tiny.other(merged(tiny.arrays, found)))
    gguf = gguf_models.make(tmp_path / "m.gguf", family, dtype="float32", **overrides)
    bases = [tiny.folder, gguf, fa.pack(tiny.folder, tmp_path / "m.fastattn", "float32")]
    for base in bases:
        model = fa.load(base)
        before = logits(model)
        for adapter in adapters:
            tuned = model.load_adapter(adapter)
            assert logits(tuned) == expected != before
            assert type(tuned) is type(model) and tuned.notes == model.notes and tuned.path == model.path
        assert logits(model) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_layers_are_stored_as_the_model_stores_them(tmp_path: Path, dtype: str) -> None:
    """Merged in float32 and rounded once, int8 scaled anew; also where a packed file has rounded weights."""
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, SOME)
    found = {module: (a / np.float32(64), b) for module, (a, b) in found.items()}  # sums that no half holds
    adapter = save_peft(tmp_path / "peft", peft_tensors(found))
    tuned = fa.load(tiny.folder, dtype).load_adapter(adapter)
    assert logits(tuned) == logits(tiny.other(merged(tiny.arrays, found), dtype))
    assert {made.dtype for made in tuned.graph.made.values() if isinstance(made, fa.PackedLinear)} == {dtype}
    packed = fa.load(fa.pack(tiny.folder, tmp_path / "m.fastattn", dtype))
    if dtype == "int8":
        with pytest.raises(ValueError, match=r"m\.fastattn: of tensor 'model\.layers.*of int8.*load the checkpoint"):
            packed.load_adapter(adapter)
    else:  # the file's numbers are held by all types
        assert logits(packed.load_adapter(adapter)) == logits(tuned)


def test_layers_of_4_bits_round_inputs_as_the_model_does(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, SOME)
    adapter = save_peft(tmp_path / "peft", peft_tensors(found))
    other = save_model(tmp_path / "by-hand", tiny.c, merged(tiny.arrays, found))
    both = [
        (logits(fa.load(tiny.folder, "int4", activations=rounded).load_adapter(adapter)),
         logits(fa.load(other, "int4", activations=rounded)))
        for rounded in ("int16", "int8")
    ]  # fmt: skip
    assert all(tuned == expected for tuned, expected in both) and both[0][0] != both[1][0]


def test_halves_of_a_checkpoint_stay_halves(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, SOME)
    base = tiny_decoders.make(tmp_path / "halves", "llama", dtype="bfloat16")
    adapter = save_peft(tmp_path / "peft", peft_tensors(found))
    expected = tiny.other(merged(tiny.arrays, found), "bfloat16")
    for path in (base, fa.pack(base, tmp_path / "m.fastattn", "bfloat16")):
        tuned = fa.load(path).load_adapter(adapter)
        assert {made.dtype for made in tuned.graph.made.values() if isinstance(made, fa.PackedLinear)} == {"bfloat16"}
        assert logits(tuned) == logits(expected)
    quarter = gguf_models.make(tmp_path / "m.gguf", "llama", dtype="bfloat16")
    assert logits(fa.load(quarter).load_adapter(adapter)) == logits(expected)


def test_what_did_not_change_is_shared(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, ("layers.1.self_attn.v_proj", "layers.2.mlp.down_proj"))
    adapter = save_peft(tmp_path / "peft", peft_tensors(found))
    for base in (tiny.folder, fa.pack(tiny.folder, tmp_path / "m.fastattn", "float32")):
        model = fa.load(base)
        tuned = model.load_adapter(adapter)
        new = {key for key, made in tuned.graph.made.items() if made is not model.graph.made[key]}
        layer = "model.layers.1.self_attn"
        assert new == {f"{layer}.q_proj+{layer}.k_proj+{layer}.v_proj", "model.layers.2.mlp.down_proj"}
        assert tuned.graph.made.keys() == model.graph.made.keys()
        assert tuned.graph.tables[0] is model.graph.tables[0]


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts(tmp_path: Path, family: str) -> None:
    """Each layer of each expert has halves of its own; a packed file's, which are one layer, are not changed."""
    base = tiny_moe.make(tmp_path / "base", family)
    weights = fa.open_weights(base)
    arrays = {name: weights.as_float32(name) for name in weights}
    shapes = {name: array.shape for name, array in arrays.items() if ".layers.0." in name and ".experts.1." in name}
    found = pairs(shapes, ("",))
    assert len(found) == 3
    adapter = save_peft(tmp_path / "peft", peft_tensors(found))
    config = json.loads((base / "config.json").read_text())
    by_hand = fa.load(save_model(tmp_path / "by-hand", config, merged(arrays, found)), "float32")
    ids, model = [list(range(2, 42))], fa.load(base)
    tuned = model.load_adapter(adapter)
    assert tuned(ids).logits.tobytes() == by_hand(ids).logits.tobytes() != model(ids).logits.tobytes()
    packed = fa.load(fa.pack(base, tmp_path / "m.fastattn", "float32"))
    with pytest.raises(ValueError, match="the model has no tensor"):
        packed.load_adapter(adapter)


@pytest.mark.parametrize("case", ["deepseek_v3", "qwen3_next", "mamba2", "lfm2"])
def test_layers_that_pages_have_in_another_order(tmp_path: Path, case: str) -> None:
    """All of two layers' matrices, and whole tensors of convolutions."""
    tiny = tiny_models.make(case, "causal_lm")
    base = tiny.save(tmp_path / "base")
    shapes = {name: array.shape for name, array in tiny.tensors.items() if "layers.2" not in name}
    found = {module: pair for module, pair in pairs(shapes, ("",)).items() if "embed" not in module}
    derived = [name for name in tiny.tensors if name.endswith((".conv.weight", ".conv1d.weight"))]
    whole = {name: tiny.tensors[name] / np.float32(2) for name in derived}
    assert len(found) >= 5 and bool(whole) == (case in ("qwen3_next", "mamba2", "lfm2"))
    tensors = peft_tensors(found) | {f"base_model.model.{name}": array for name, array in whole.items()}
    adapter = save_peft(tmp_path / "peft", tensors)
    by_hand = save_model(tmp_path / "by-hand", tiny.config, merged({**tiny.tensors, **whole}, found))
    ids, mask = tiny_models.batch(case)[:2]
    expected = fa.load(by_hand, "float32")(ids, mask).logits.tobytes()
    model = fa.load(base, "float32")
    assert model.load_adapter(adapter)(ids, mask).logits.tobytes() == expected != model(ids, mask).logits.tobytes()


def test_layers_that_gguf_files_have_in_another_order_too(tmp_path: Path) -> None:
    """DeepSeek's keys and values of all heads, which pages have apart."""
    c = tiny_latent.config("deepseek_v2")
    arrays = tiny_latent.tensors(c)
    found = pairs({name: array.shape for name, array in arrays.items()}, ("layers.0.self_attn.kv_b_proj",))
    adapter = save_peft(tmp_path / "peft", peft_tensors(found))
    expected = fa.load(save_model(tmp_path / "by-hand", c, merged(arrays, found)), "float32")
    folder = save_model(tmp_path / "base", c, arrays)
    gguf = gguf_latent.make(tmp_path / "m.gguf", "deepseek_v2", dtype="float32", latents=False)
    a, b = found["model.layers.0.self_attn.kv_b_proj"]
    other = {"general.architecture": "deepseek2", "general.type": "adapter", "adapter.type": "lora",
             "adapter.lora.alpha": float(ALPHA)}  # fmt: skip
    halves = {"blk.0.attn_kv_b.weight.lora_a": a, "blk.0.attn_kv_b.weight.lora_b": b}
    (tmp_path / "a.gguf").write_bytes(gguf_bytes(other, halves))
    ids = [list(range(2, 42))]
    for base in (folder, gguf, fa.pack(folder, tmp_path / "m.fastattn", "float32")):
        model = fa.load(base, "float32")
        for one in (adapter, tmp_path / "a.gguf"):
            got = model.load_adapter(one)(ids).logits.tobytes()
            assert got == expected(ids).logits.tobytes() != model(ids).logits.tobytes()


def test_adapters_one_behind_the_other(tmp_path: Path) -> None:
    """Their sum is rounded once; what an earlier one changed, and a later one does not, is not made again."""
    tiny = Tiny(tmp_path)
    first, second = pairs(tiny.shapes, ("q_proj", "up_proj")), pairs(tiny.shapes, ("up_proj", "lm_head"))
    first = {module: (a / np.float32(64), b) for module, (a, b) in first.items()}
    folders = [save_peft(tmp_path / "1", peft_tensors(first)), save_peft(tmp_path / "2", peft_tensors(second))]
    expected = merged(merged(tiny.arrays, first), second)
    for dtype in ("float32", "bfloat16", "int8"):
        one = fa.load(tiny.folder, dtype).load_adapter(folders[0])
        both = one.load_adapter(folders[1])
        assert logits(both) == logits(tiny.other(expected, dtype))
        layer = "model.layers.0.self_attn"
        key = f"{layer}.q_proj+{layer}.k_proj+{layer}.v_proj"
        assert both.graph.made[key] is one.graph.made[key]
        assert logits(pickle.loads(pickle.dumps(both))) == logits(both)
    thrice = fa.load(tiny.folder).load_adapter(folders[0]).load_adapter(folders[0])
    assert logits(thrice) == logits(tiny.other(merged(merged(tiny.arrays, first), first)))


def test_other_processes(tmp_path: Path) -> None:
    """A pickled model is its files; they have to be those, the adapter's too."""
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, SOME)
    adapter = save_peft(tmp_path / "peft", peft_tensors(found))
    model = fa.load(tiny.folder, num_threads=1)
    tuned = model.load_adapter(adapter)
    data = pickle.dumps(tuned)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert logits(again) == logits(tuned) and again.num_threads == 1
    save_peft(tmp_path / "peft", peft_tensors(found), lora_alpha=3)
    with pytest.raises(ValueError, match="not the weights"):
        pickle.loads(data)
    with pytest.raises(ValueError, match="not the files that the model was loaded from"):
        tuned.load_adapter(adapter)
    shutil.rmtree(adapter)
    with pytest.raises(FileNotFoundError, match="peft"):
        pickle.loads(data)
    tiny_decoders.make(tmp_path / "base", "llama", seed=1)
    with pytest.raises(ValueError, match="not the files that the model was loaded from"):
        model.load_adapter(save_peft(tmp_path / "peft", peft_tensors(found)))


# ---- what a file may say --------------------------------------------------------------------------------------------


def test_names(tmp_path: Path) -> None:
    """A class with a head has ``model.`` in front of names; PEFT's own prefix, and an adapter's name, may be there."""
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, SOME[:-1])
    bare = {name.removeprefix("model."): array for name, array in tiny.arrays.items() if name != "lm_head.weight"}
    base = save_model(tmp_path / "bare", {**tiny.c, "architectures": ["LlamaModel"]}, bare)
    short = {module.removeprefix("model."): halves for module, halves in found.items()}
    folders = [
        save_peft(tmp_path / "1", peft_tensors(found)),
        save_peft(tmp_path / "2", peft_tensors(short)),
        save_peft(tmp_path / "3", peft_tensors(short, ".default")),
        save_peft(tmp_path / "4", {k.removeprefix("base_model.model."): v for k, v in peft_tensors(found).items()}),
        gguf_adapter(tmp_path / "5.gguf", tiny.c, found),
    ]
    tuned = tiny.other(merged(tiny.arrays, found))
    ids = [[3, 5, 7, 100]]
    hidden = tuned(ids, output_hidden_states=True).hidden_states[-1].tobytes()
    for folder in folders:
        assert logits(fa.load(tiny.folder).load_adapter(folder)) == logits(tuned)
        assert fa.load(base).load_adapter(folder)(ids).last_hidden_state.tobytes() == hidden
    assert logits(fa.load(tiny.folder).load_adapter(folders[0] / "adapter_model.safetensors")) == logits(tuned)


SCALES: list[tuple[dict[str, Any], float]] = [
    ({"lora_alpha": 8}, 2), ({"lora_alpha": 1}, 0.25), ({"lora_alpha": -2.0}, -0.5), ({"lora_alpha": 0}, 0),
    ({"lora_alpha": 8, "use_rslora": True}, 4), ({"alpha_pattern": {"lm_head": 4}}, 2),
    ({"alpha_pattern": {"q_proj": 4}}, 1), ({"alpha_pattern": {"model.layers.0.self_attn.q_proj": 2}}, 0.5),
    ({"alpha_pattern": {r"^model\.layers\.\d+\.self_attn\..*": 1}}, 0.25), ({"alpha_pattern": {"attn.q_proj": 4}}, 2),
    ({"alpha_pattern": {"_proj": 4}}, 2), ({"alpha_pattern": {"k_proj|q_proj": 4, "q_proj": 1}}, 1),
    ({"r": 9, "rank_pattern": {"q_proj": 4}}, 2), ({"r": 9, "rank_pattern": {r"layers\.[0-9]\..*q_proj": 4}}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("config", "scale"), SCALES)
def test_scale(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, ("layers.0.self_attn.q_proj",))
    assert len(found) == 1
    tuned = fa.load(tiny.folder).load_adapter(save_peft(tmp_path / "peft", peft_tensors(found), **config))
    assert logits(tuned) == logits(tiny.other(merged(tiny.arrays, found, scale)))


def test_scale_of_gguf(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, ("k_proj",))
    for alpha, scale in ((2.0, 0.5), (0.0, 1.0), (..., 1.0), (-4.0, -1.0)):
        adapter = gguf_adapter(tmp_path / "a.gguf", tiny.c, found, adapter__lora__alpha=alpha)
        expected = logits(tiny.other(merged(tiny.arrays, found, scale)))
        assert logits(fa.load(tiny.folder).load_adapter(adapter)) == expected
    one = {module: pair(module, tiny.shapes[f"{module}.weight"], 1) for module in found}
    flat = {f"{gguf_models.gguf_name(f'{module}.weight', 'llama')}.lora_a": a[0] for module, (a, _) in one.items()}
    both = gguf_adapter(tmp_path / "a.gguf", tiny.c, one)
    tensors = {name: fa.open_weights(both)[name] for name in fa.open_weights(both)}
    adapter = gguf_adapter(tmp_path / "b.gguf", tiny.c, {}, {**tensors, **flat})  # of rank 1, without that dimension
    assert logits(fa.load(tiny.folder).load_adapter(adapter)) == logits(tiny.other(merged(tiny.arrays, one, ALPHA)))


def test_whole_tensors(tmp_path: Path) -> None:
    """``modules_to_save``, biases, norms, and a table that has a LoRA besides."""
    tiny = Tiny(tmp_path, attention_bias=True)
    found = pairs(tiny.shapes, ("v_proj",))
    words = tiny_bert.integers("words", (101, 48), 16).astype(np.float32) / np.float32(8)
    norm, bias = np.arange(48, dtype=np.float32), np.full(48, 0.5, np.float32)
    for a, b in ((".", "."), (".modules_to_save.", ".modules_to_save.default."), (".base_layer.", ".base_layer.")):
        table = pair("table", (48, 101))
        more = {
            f"base_model.model.lm_head{b}weight": words,
            f"base_model.model.model.embed_tokens{a}weight": words,
            "base_model.model.model.embed_tokens.lora_embedding_A": table[0],
            "base_model.model.model.embed_tokens.lora_embedding_B": table[1],
            "base_model.model.model.layers.1.input_layernorm.weight": norm,
            "base_model.model.model.layers.2.self_attn.q_proj.bias": bias,
            "base_model.model.model.layers.0.self_attn.v_proj.lora_B.bias": np.arange(16, dtype=np.float32),
        }
        adapter = save_peft(tmp_path / "peft", peft_tensors(found) | more, bias="all", lora_bias=True)
        arrays = merged(tiny.arrays, found)
        arrays["lm_head.weight"] = words
        arrays["model.embed_tokens.weight"] = words + np.float32(ALPHA / R) * (table[1] @ table[0]).T
        arrays["model.layers.1.input_layernorm.weight"] = norm
        arrays["model.layers.2.self_attn.q_proj.bias"] = bias
        shift = np.float32(ALPHA / R) * np.arange(16, dtype=np.float32)
        arrays["model.layers.0.self_attn.v_proj.bias"] = tiny.arrays["model.layers.0.self_attn.v_proj.bias"] + shift
        expected = logits(tiny.other(arrays))
        for base in (tiny.folder, fa.pack(tiny.folder, tmp_path / "m.fastattn", "float32")):
            assert logits(fa.load(base).load_adapter(adapter)) == expected


def test_gguf_tables_and_norms(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    a, b = pair("table", (48, 101))
    norm = np.arange(48, dtype=np.float32)
    more = {
        "token_embd.weight.lora_a": np.ascontiguousarray(a.T), "token_embd.weight.lora_b": b,
        "blk.1.attn_norm.weight": norm,
    }  # fmt: skip
    adapter = gguf_adapter(tmp_path / "a.gguf", tiny.c, {}, more)
    words = tiny.arrays["model.embed_tokens.weight"] + np.float32(ALPHA / R) * (b @ a).T
    expected = tiny.other(
        {**tiny.arrays, "model.embed_tokens.weight": words, "model.layers.1.input_layernorm.weight": norm}
    )
    for base in (tiny.folder, gguf_models.make(tmp_path / "m.gguf", "llama", dtype="float32")):
        assert logits(fa.load(base).load_adapter(adapter)) == logits(expected)


@pytest.mark.parametrize("tied", [False, True, None])
@pytest.mark.parametrize("which", ["head", "words", "both"])
@pytest.mark.parametrize("kind", ["low", "whole"])
def test_tied_tables(tmp_path: Path, tied: bool | None, which: str, kind: str) -> None:
    """A head and a table that share their numbers are changed each by its own name; both with ensure_weight_tying."""
    tiny = Tiny(tmp_path, tie_word_embeddings=True)
    words = tiny.arrays["model.embed_tokens.weight"]
    (a, b), (c, d) = pair("head", (101, 48)), pair("words", (48, 101))
    new_head, new_words = words + 2 * (b @ a), words + 2 * (d @ c).T
    prefix = "base_model.model."
    of_head = {f"{prefix}lm_head.lora_A.weight": a, f"{prefix}lm_head.lora_B.weight": b}
    of_words = {f"{prefix}model.embed_tokens.lora_embedding_A": c, f"{prefix}model.embed_tokens.lora_embedding_B": d}
    if kind == "whole":
        of_head = {f"{prefix}lm_head.weight": np.float32(new_head)}
        of_words = {f"{prefix}model.embed_tokens.weight": np.float32(new_words)}
    tensors = {**(of_head if which != "words" else {}), **(of_words if which != "head" else {})}
    config = {} if tied is None else {"ensure_weight_tying": tied}
    adapter = save_peft(tmp_path / "peft", tensors, **config)
    both = {"head": (new_head, new_head), "words": (new_words, new_words), "both": (new_head, new_words)}
    each = {"head": (new_head, words), "words": (words, new_words), "both": (new_head, new_words)}
    head, table = (both if tied else each)[which]
    arrays = {**tiny.arrays, "model.embed_tokens.weight": np.float32(table), "lm_head.weight": np.float32(head)}
    expected = logits(tiny.other(arrays, tie_word_embeddings=False))
    for base in (tiny.folder, fa.pack(tiny.folder, tmp_path / "m.fastattn", "float32")):
        assert logits(fa.load(base).load_adapter(adapter)) == expected


def test_rows_do_not_depend_on_pieces_or_threads(tmp_path: Path) -> None:
    """Random numbers, whose sums do depend on their order."""
    rng = np.random.default_rng(1)
    weight, a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((700, 333), (17, 333), (700, 17)))
    tiny_bert.save_safetensors(tmp_path / "w.safetensors", {"w": weight})
    file = fa.open_weights(tmp_path / "w.safetensors")
    asked = Asked(None, file, {"w": ("w", (700, 333))}, {}, {}, (), (), False)  # type: ignore[arg-type]
    change = LowRank("x", a, b, 0.37)
    whole = Merged(asked, {"w": [change, change]}, 1).as_float32("w")
    exact = weight + 2 * np.float64(np.float32(0.37)) * (b.astype(np.float64) @ a)
    assert np.abs(whole - exact).max() < 1e-5
    for threads in (1, 2, 3):
        read = Merged(asked, {"w": [change, change]}, threads).row_reader("w")
        pieces = [read(start, min(start + 37, 700)) for start in range(0, 700, 37)]
        assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_notes(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    found = pairs(tiny.shapes, ("q_proj",))
    config = {"unsloth_fixed": True, "a_new_one": [1], "nothing": None, "off": False}
    tuned = fa.load(tiny.folder).load_adapter(save_peft(tmp_path / "peft", peft_tensors(found), **config))
    where = tmp_path / "peft" / "adapter_config.json"
    assert tuned.notes == [f"{where}: unknown keys 'unsloth_fixed', 'a_new_one'"]
    assert fa.load(tiny.folder).notes == []
    twice = tuned.load_adapter(tmp_path / "peft")
    assert twice.notes == tuned.notes * 2


def test_int8_in_a_packed_file(tmp_path: Path) -> None:
    """Its layers stay as they are; norms and tables, which are not int8, may change."""
    tiny = Tiny(tmp_path)
    norm = {"model.norm.weight": np.arange(48, dtype=np.float32)}
    adapter = save_peft(tmp_path / "peft", {f"base_model.model.{name}": array for name, array in norm.items()})
    packed = fa.pack(tiny.folder, tmp_path / "m.fastattn")
    assert logits(fa.load(packed).load_adapter(adapter)) == logits(tiny.other(tiny.arrays | norm, "int8"))


def test_encoders(tmp_path: Path) -> None:
    """Their settings go along."""
    base = tiny_bert.save_text_folder(tmp_path / "bert")
    arrays = {name: array.astype(np.float32) for name, array in tiny_bert.tensors("plain").items()}
    modules = ("encoder.layer.0.attention.self.query", "encoder.layer.1.output.dense")
    found = {module: pair(module, arrays[f"{module}.weight"].shape) for module in modules}
    adapter = save_peft(tmp_path / "peft", peft_tensors({f"bert.{module}": found[module] for module in modules}))
    model = fa.load(base)
    model.max_seq_length, model.num_threads = 7, 1
    tuned = model.load_adapter(adapter)
    changed = tiny_bert.save_text_folder(tmp_path / "changed")
    tiny_bert.save_safetensors(changed / "model.safetensors", merged(arrays, found))
    expected = fa.load(changed)
    expected.max_seq_length = 7
    texts = ["the cat sat on the mat. the cat", "a b"]
    got = tuned.embed(texts)
    assert np.allclose(got, expected.embed(texts), atol=1e-6) and not np.allclose(got, model.embed(texts), atol=1e-4)
    assert (tuned.max_seq_length, tuned.num_threads) == (7, 1)


def test_heads_that_were_put_beside(tmp_path: Path) -> None:
    base = tiny_families.save_folder(tmp_path / "base", "distilbert")
    topic = tiny_families.save_folder(tmp_path / "topic", "distilbert", "ForSequenceClassification")
    norm = tiny_families.tensors("distilbert")["transformer.layer.0.sa_layer_norm.weight"]
    adapter = save_peft(tmp_path / "peft", {"transformer.layer.0.sa_layer_norm.weight": norm + np.float32(1)})
    model = fa.load(base)
    model.add_head("topic", fa.load(topic))
    tuned = model.load_adapter(adapter)
    assert list(tuned.heads) == ["topic"]
    ids = [[2, 5, 7, 3]]
    scores = [one.run_heads(ids)["topic"].logits.tobytes() for one in (tuned, model, pickle.loads(pickle.dumps(tuned)))]
    assert scores[0] == scores[2] != scores[1]


def test_what_is_made_of_weights_is_made_anew(tmp_path: Path) -> None:
    """MPNet's bias by distance; a packed file has that alone."""
    base = tiny_families.save_folder(tmp_path / "base", "mpnet")
    arrays = tiny_families.tensors("mpnet")
    name = "encoder.relative_attention_bias.weight"
    table = np.ascontiguousarray(arrays[name][::-1])
    adapter = save_peft(tmp_path / "peft", {f"base_model.model.{name}": table})
    changed = tiny_families.save_folder(tmp_path / "changed", "mpnet")
    tiny_bert.save_safetensors(changed / "model.safetensors", {**arrays, name: table})
    ids = [[4, 5, 7, 3, 9, 11]]
    tuned, model = fa.load(base).load_adapter(adapter), fa.load(base)
    got, expected, before = (one(ids).last_hidden_state.tobytes() for one in (tuned, fa.load(changed), model))
    assert got == expected != before
    packed = fa.load(fa.pack(base, tmp_path / "m.fastattn", "float32"))
    assert packed.load_adapter(adapter)(ids).last_hidden_state.tobytes() == expected
    adapter = save_peft(tmp_path / "low", peft_tensors({name.removesuffix(".weight"): pair(name, table.shape)}))
    with pytest.raises(ValueError, match=r"m\.fastattn: of tensor 'encoder\.relative_att.*only what was made of it"):
        packed.load_adapter(adapter)
