# SPDX-License-Identifier: MIT
"""Sentence vectors as sentence-transformers defines them: pooling modes, modules, prompts, truncated vectors."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import write_json

import fastattn as fa
from fastattn.text import TextEncoder, TextSettings, TextTokenizer
from fastattn.text.vectors import Module, VectorSettings

pytest.importorskip("tokenizers")

Array = np.ndarray[Any, Any]
TEXTS = ["the cat sat on the mat.", "", "a", "b c d", "cats, longer cats!", "abcd " * 5, "the mat", "東京 über"]
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert.save_text_folder(tmp_path / "model")


def save_modules(folder: Path, *kinds: str, prefix: str = OLD) -> None:
    """modules.json of a chain that begins with Transformer and Pooling."""
    names = ["Transformer", "Pooling", *kinds]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(names[1:], 1))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": prefix + name}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    write_json(folder / "modules.json", modules)


def save_pooling(folder: Path, *modes: str, **more: Any) -> None:
    flags = {flag: name in modes for name, flag in FLAGS.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **flags, **more})


def save_dense(folder: Path, place: str, inputs: int, outputs: int, **config: Any) -> dict[str, Array]:
    """A Dense module with weights from a hash; its arrays."""
    values = {"in_features": inputs, "out_features": outputs, "bias": True, **config}
    write_json(folder / place / "config.json", values)
    arrays = {"linear.weight": tiny_bert.uniform(f"{place}/weight", (outputs, inputs)) / np.float32(math.sqrt(inputs))}
    if values["bias"]:
        arrays["linear.bias"] = tiny_bert.uniform(f"{place}/bias", (outputs,))
    if values.get("use_residual") and inputs != outputs:
        arrays["residual.weight"] = tiny_bert.uniform(f"{place}/residual", (outputs, inputs))
    tiny_bert.save_safetensors(folder / place / "model.safetensors", arrays)
    return arrays


def hidden_states(model: TextEncoder, text: str) -> Array:
    tokenizer = TextTokenizer(model.files, TextSettings.read(model.files), model.max_positions)
    return np.asarray(model([tokenizer.encode(text)[0].tolist()]).last_hidden_state[0], np.float64)


def pooled(hidden: Array, mode: str, skip: int = 0) -> Array:
    """sentence-transformers' formula, in double precision."""
    weights = np.arange(1, len(hidden) + 1, dtype=np.float64)[skip:, None]
    rows = hidden[skip:]
    return {
        "cls": lambda: rows[0],
        "max": lambda: rows.max(axis=0),
        "mean": lambda: rows.mean(axis=0),
        "mean_sqrt_len_tokens": lambda: rows.sum(axis=0) / math.sqrt(len(rows)),
        "weightedmean": lambda: (rows * weights).sum(axis=0) / weights.sum(),
        "lasttoken": lambda: rows[-1],
    }[mode]()  # type: ignore[no-any-return]


def unit(x: Array) -> Array:
    return x / np.sqrt((x**2).sum())


ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": np.tanh,
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.ReLU": lambda x: np.maximum(x, 0),
    "torch.nn.modules.activation.GELU": lambda x: x * 0.5 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x])),
    "torch.nn.modules.activation.Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "torch.nn.modules.activation.SiLU": lambda x: x / (1 + np.exp(-x)),
}


def assert_vectors(model: TextEncoder, expect: Any, **options: Any) -> None:
    for text, vector in zip(TEXTS, model.embed(TEXTS, **options), strict=True):
        expected = expect(text)
        assert vector.shape == expected.shape
        assert np.abs(vector - expected).max() <= 2e-6 * max(1.0, float(np.abs(expected).max())), text


# ---- pooling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", FLAGS)
@pytest.mark.parametrize("named", [False, True])
def test_every_mode(folder: Path, mode: str, named: bool) -> None:
    save_modules(folder, prefix=NEW if named else OLD)
    if named:
        write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": mode})
    else:
        save_pooling(folder, mode)
    model = fa.load(folder)
    assert_vectors(model, lambda text: pooled(hidden_states(model, text), mode))


@pytest.mark.parametrize(
    ("modes", "order"),
    [
        (("mean", "cls"), ("cls", "mean")),
        (("lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens", "mean", "cls"), tuple(FLAGS)),
    ],
)
def test_several_modes_stand_side_by_side(folder: Path, modes: tuple[str, ...], order: tuple[str, ...]) -> None:
    """Flags in sentence-transformers' order, whatever the file's; a list in its own."""
    save_modules(folder, "Normalize")
    save_pooling(folder, *modes)
    model = fa.load(folder)
    assert model.embedding_size() == 32 * len(modes)
    assert_vectors(model, lambda t: unit(np.concatenate([pooled(hidden_states(model, t), mode) for mode in order])))
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": list(modes)})
    model = fa.load(folder)
    assert_vectors(model, lambda t: unit(np.concatenate([pooled(hidden_states(model, t), mode) for mode in modes])))


@pytest.mark.parametrize("mode", FLAGS)
def test_a_prompt_that_takes_no_part_in_pooling(folder: Path, mode: str) -> None:
    save_modules(folder)
    save_pooling(folder, mode, include_prompt=False)
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"q": "query : "}, "default_prompt_name": "q"})
    model = fa.load(folder)
    assert_vectors(model, lambda text: pooled(hidden_states(model, "query : " + text), mode, 3))  # and [CLS]
    assert_vectors(model, lambda text: pooled(hidden_states(model, "a" + text), mode, 2), prompt="a")
    assert_vectors(model, lambda text: pooled(hidden_states(model, text), mode), prompt="")


# ---- prompts -------------------------------------------------------------------------------------------------------


def test_prompts(folder: Path) -> None:
    prompts = {"query": "query : ", "passage": "long ", "none": "", "null": None}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    model = fa.load(folder)
    plain = model.embed(TEXTS)
    for name, prompt in (("query", "query : "), ("passage", "long "), ("none", "")):
        expected = model.embed([prompt + text for text in TEXTS])
        assert model.embed(TEXTS, prompt_name=name).tobytes() == expected.tobytes()
        assert model.embed(TEXTS, prompt=prompt).tobytes() == expected.tobytes()
        assert (expected.tobytes() == plain.tobytes()) == (prompt == "")
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "query"})
    asked = fa.load(folder)
    assert asked.embed(TEXTS).tobytes() == model.embed(TEXTS, prompt_name="query").tobytes()
    assert asked.embed(TEXTS, prompt="").tobytes() == plain.tobytes()
    with pytest.raises(ValueError, match="prompt_name: got 'doc', expected one of 'query', 'passage', 'none'"):
        model.embed(TEXTS, prompt_name="doc")
    with pytest.raises(ValueError, match="prompt_name: got 'null'"):
        model.embed(TEXTS, prompt_name="null")
    with pytest.raises(ValueError, match="prompt_name: expected None where a prompt is given"):
        model.embed(TEXTS, prompt="a", prompt_name="query")
    with pytest.raises(TypeError, match="prompt: expected a str, got int"):
        model.embed(TEXTS, prompt=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prompt_name: expected a str or None, got int"):
        model.embed(TEXTS, prompt_name=3)  # type: ignore[arg-type]
    (folder / "config_sentence_transformers.json").unlink()
    with pytest.raises(ValueError, match="prompt_name: got 'query', expected one of none, as the model names no promp"):
        fa.load(folder).embed(TEXTS, prompt_name="query")


# ---- truncated vectors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 7, 16, 32])
def test_truncated_vectors(folder: Path, dim: int) -> None:
    """Cut, then scaled; which is what normalize_embeddings does in sentence-transformers."""
    save_modules(folder, "Normalize")
    save_pooling(folder, "mean")
    model = fa.load(folder)
    whole = {text: pooled(hidden_states(model, text), "mean") for text in TEXTS}
    assert model.embedding_size(dim) == dim
    assert_vectors(model, lambda text: unit(whole[text][:dim]), truncate_dim=dim)
    assert_vectors(model, lambda text: whole[text][:dim], truncate_dim=dim, normalize=False)
    write_json(folder / "config_sentence_transformers.json", {"truncate_dim": dim})
    told = fa.load(folder)
    assert told.embedding_size() == dim
    assert told.embed(TEXTS).tobytes() == model.embed(TEXTS, truncate_dim=dim).tobytes()
    assert told.embed(TEXTS, truncate_dim=32).tobytes() == model.embed(TEXTS).tobytes()


def test_dimensions_there_are_not(folder: Path) -> None:
    model = fa.load(folder)
    for wrong, error, message in (
        (33, ValueError, "truncate_dim: got 33, expected at most 32, the width of the model's vectors"),
        (0, ValueError, "truncate_dim: got 0, expected at least 1"),
        (2.5, TypeError, "truncate_dim: expected an int or None, got float"),
    ):
        with pytest.raises(error, match=message):
            model.embed(TEXTS, truncate_dim=wrong)  # type: ignore[arg-type]


# ---- modules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_dense(folder: Path, activation: str, bias: bool) -> None:
    save_modules(folder, "Dense", "Normalize")
    save_pooling(folder, "mean", "cls")
    arrays = save_dense(folder, "2_Dense", 64, 24, activation_function=activation, bias=bias)
    model = fa.load(folder)

    def expect(text: str) -> Array:
        hidden = hidden_states(model, text)
        x = np.concatenate([pooled(hidden, "cls"), pooled(hidden, "mean")])
        return ACTIVATIONS[activation](arrays["linear.weight"] @ x + arrays.get("linear.bias", np.zeros(24)))  # type: ignore[no-any-return]

    assert model.embedding_size() == 24
    assert_vectors(model, expect, normalize=False)
    assert_vectors(model, lambda text: unit(expect(text)))
    assert_vectors(model, lambda text: unit(expect(text)[:5]), truncate_dim=5)
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    assert model.embed(TEXTS, 3, num_threads=2).tobytes() == alone.tobytes()


def test_a_long_chain(folder: Path) -> None:
    """Normalize in the middle stays, whatever normalize says; Dropout does nothing; Tanh is what is not said."""
    save_modules(folder, "Normalize", "Dense", "Dropout", "LayerNorm", "Dense", "Normalize")
    save_pooling(folder, "mean")
    first = save_dense(folder, "3_Dense", 32, 40)
    second = save_dense(folder, "6_Dense", 40, 17, activation_function="torch.nn.modules.linear.Identity")
    write_json(folder / "5_LayerNorm" / "config.json", {"dimension": 40})
    norm = {"norm.weight": tiny_bert.uniform("gain", (40,)) + 1, "norm.bias": tiny_bert.uniform("shift", (40,))}
    norm = {key: array.astype(np.float32) for key, array in norm.items()}
    tiny_bert.save_safetensors(folder / "5_LayerNorm" / "model.safetensors", norm)
    model = fa.load(folder)

    def expect(text: str) -> Array:
        x = unit(pooled(hidden_states(model, text), "mean"))
        x = np.tanh(first["linear.weight"] @ x + first["linear.bias"])
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * norm["norm.weight"] + norm["norm.bias"]
        return second["linear.weight"] @ x + second["linear.bias"]  # type: ignore[no-any-return]

    assert_vectors(model, lambda text: unit(expect(text)))
    assert_vectors(model, expect, normalize=False)


@pytest.mark.parametrize("outputs", [32, 20])
def test_dense_with_a_residual(folder: Path, outputs: int) -> None:
    save_modules(folder, "Dense", prefix="sentence_transformers.base.modules.dense.")
    save_pooling(folder, "mean")
    arrays = save_dense(folder, "2_Dense", 32, outputs, use_residual=True)
    model = fa.load(folder)

    def expect(text: str) -> Array:
        x = pooled(hidden_states(model, text), "mean")
        return (
            np.tanh(arrays["linear.weight"] @ x + arrays["linear.bias"]) + arrays.get("residual.weight", np.eye(32)) @ x
        )  # type: ignore[no-any-return]

    assert_vectors(model, expect)


def test_half_precision_modules_are_widened(folder: Path) -> None:
    save_modules(folder, "Dense")
    save_pooling(folder, "mean")
    arrays = save_dense(folder, "2_Dense", 32, 8)
    half = {key: array.astype(np.float16) for key, array in arrays.items()}
    tiny_bert.save_safetensors(folder / "2_Dense" / "model.safetensors", half)
    got = fa.load(folder).embed(TEXTS)
    wide = {key: array.astype(np.float32) for key, array in half.items()}
    tiny_bert.save_safetensors(folder / "2_Dense" / "model.safetensors", wide)
    assert fa.load(folder).embed(TEXTS).tobytes() == got.tobytes()


def test_settings(folder: Path) -> None:
    save_modules(folder, "Dense", "Dropout", "Normalize")
    save_pooling(folder, "max", include_prompt=False)
    assert VectorSettings.read(folder, 32) == VectorSettings(
        pooling=("max",), include_prompt=False, modules=(Module("Dense", "2_Dense"),), normalize=True
    )


DENSE = "2_Dense/config.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_features": 31}, r"in_features is '31', expected 32, the width of what comes before"),
        ({"in_features": "32"}, r"in_features is '32', expected an integer of at least 1"),
        ({"out_features": 0}, r"out_features is '0', expected an integer of at least 1"),
        ({"out_features": None}, r"key 'out_features' is missing"),
        ({"out_features": 9}, r"tensor 'linear\.weight' has shape \[8, 32\], expected \[9, 32\] as config\.json says"),
        ({"bias": False}, r"has a tensor 'linear\.bias' that has no place"),
        ({"bias": "yes"}, r"bias is 'yes', expected true or false"),
        ({"activation_function": "torch.nn.modules.activation.PReLU"}, "expected one of torch's Tanh, Identity, ReLU"),
        ({"activation_function": "mine.Tanh"}, "activation_function is 'mine.Tanh', expected one of torch's"),
        ({"activation_function": 3}, "activation_function is '3'"),
        (
            {"module_input_name": "token_embeddings"},
            "module_input_name is 'token_embeddings', expected one of sentence",
        ),
        ({"use_residual": True}, r"has no tensor 'residual\.weight'"),
    ],
)
def test_dense_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    save_modules(folder, "Dense")
    save_pooling(folder, "mean")
    save_dense(folder, "2_Dense", 32, 8)
    values = {"in_features": 32, "out_features": 8, "bias": True, **change}
    write_json(folder / DENSE, {key: value for key, value in values.items() if value is not None})
    model = fa.load(folder)
    assert model([[1, 2]]).last_hidden_state.shape == (1, 2, 32)
    with pytest.raises(ValueError, match=message) as caught:
        model.embed(["the cat"])
    assert str(folder / "2_Dense") in str(caught.value)


def test_modules_without_their_files(folder: Path) -> None:
    save_modules(folder, "Dense")
    save_pooling(folder, "mean")
    with pytest.raises(FileNotFoundError, match=r"2_Dense.config\.json: modules\.json names this Dense module, but"):
        fa.load(folder).embed(["a"])
    save_dense(folder, "2_Dense", 32, 8)
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: the weights of a Dense module are missing$"):
        fa.load(folder).embed(["a"])
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(FileNotFoundError, match=r"missing; pytorch_model\.bin is a pickle, which can run any code"):
        fa.load(folder).embed(["a"])
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match=r"2_Dense.model\.safetensors"):
        fa.load(folder).embed(["a"])


def test_layer_norm_and_normalize_refused(folder: Path) -> None:
    save_modules(folder, "LayerNorm")
    save_pooling(folder, "mean")
    write_json(folder / "2_LayerNorm" / "config.json", {"dimension": 31})
    with pytest.raises(ValueError, match="dimension is '31', expected 32"):
        fa.load(folder).embed(["a"])
    save_modules(folder, "Normalize")
    write_json(folder / "2_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(ValueError, match="module_input_name is 'token_embeddings'"):
        fa.load(folder).embed(["a"])


# ---- packed files, streams -----------------------------------------------------------------------------------------


def test_packed_files_have_all_of_it(folder: Path, tmp_path: Path) -> None:
    save_modules(folder, "Dense", "Normalize")
    save_pooling(folder, "weightedmean", include_prompt=False)
    save_dense(folder, "2_Dense", 32, 8)
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"q": "query : "}, "default_prompt_name": "q"})
    expected = fa.load(folder).embed(TEXTS)
    fa.pack(folder, tmp_path / "packed.fastattn", dtype="float32")
    assert fa.load(tmp_path / "packed.fastattn").embed(TEXTS).tobytes() == expected.tobytes()


def test_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An iterable is read as it is needed, and vectors come in its order."""
    model = fa.load(folder)
    expected = model.embed(TEXTS * 5)
    monkeypatch.setattr("fastattn.text.batches._WINDOW", 7)
    read: list[int] = []
    most = 0
    real = model.run_packed

    def stream() -> Any:
        for i, text in enumerate(TEXTS * 5):
            read.append(i)
            yield text

    def watched(*args: Any, **options: Any) -> Any:
        nonlocal most
        most = max(most, len(read) - 7 * (len(read) // 7))
        return real(*args, **options)

    monkeypatch.setattr(model, "run_packed", watched)
    assert model.embed(stream()).tobytes() == expected.tobytes() and most < 7
    assert model.embed(iter(())).shape == (0, 32)
    with pytest.raises(TypeError, match=r"texts\[9\]: expected a str, got NoneType"):
        model.embed(iter([*["a"] * 9, None]))  # type: ignore[list-item]


@pytest.mark.parametrize("setting", ["true", "false"])
def test_the_librarys_own_threads_give_the_same(folder: Path, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fa.load(folder)
    items = [*TEXTS, ("the cat", "sat on the mat"), "abcd " * 2000]
    plain = model.pipeline.tokenizer.encode_many(items)  # type: ignore[attr-defined]
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", setting)
    for these in (items, items[:-1]):
        for a, b in zip(plain, model.pipeline.tokenizer.encode_many(these), strict=False):  # type: ignore[attr-defined]
            assert a[0].tolist() == b[0].tolist() and a[1].tolist() == b[1].tolist()


def test_no_threads_of_the_library_and_no_warning_after_a_fork(folder: Path) -> None:
    code = (
        "import os, sys, fastattn as fa\n"
        f"model = fa.load({str(folder)!r}, num_threads=1)\n"
        "def threads(): return len(os.listdir('/proc/self/task'))\n"
        "before = threads()\n"
        "model.embed(['the cat', 'sat on the mat'] * 2000)\n"
        "assert threads() == before, 'more threads than asked for'\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    model.embed(['the cat'] * 500)\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitpid(child, 0)[1])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
