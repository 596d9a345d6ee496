# SPDX-License-Identifier: MIT
"""Limits of texts, what results say about them, and what else callers may ask of a method that takes texts."""

from __future__ import annotations

import copy
import pickle
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import save_task_folder, write_json

import fastattn as fa
from fastattn.text import Results, TextEncoder, TruncationWarning, Vectors

pytest.importorskip("tokenizers")

LONG = "the cat sat on the mat. " * 30
SHORT = "the cat"
SIZES = [3, 5, 20, 40]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("limits")


@pytest.fixture(scope="module")
def bare(root: Path) -> TextEncoder:
    return fa.load(tiny_bert.save_text_folder(root / "bare"))


@pytest.fixture(scope="module")
def classifier(root: Path) -> TextEncoder:
    return fa.load(save_task_folder(root / "classifier", "sequence_classification", ["no", "yes", "maybe"]))


@pytest.fixture(scope="module")
def ranker(root: Path) -> TextEncoder:
    return fa.load(save_task_folder(root / "ranker", "sequence_classification", ["score"]))


@pytest.fixture(scope="module")
def reader(root: Path) -> TextEncoder:
    return fa.load(save_task_folder(root / "reader", "question_answering"))


@pytest.fixture
def methods(bare: TextEncoder, classifier: TextEncoder, ranker: TextEncoder) -> dict[str, Callable[..., Any]]:
    """Name -> a call with texts and options."""
    return {
        "embed": bare.embed,
        "embed_tokens": bare.embed_tokens,
        "tokens": bare.tokens,
        "classify": classifier.classify,
        "rerank": lambda texts, **options: ranker.rerank("a", texts, **options),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "vector"):
        return (a.text, a.start) == (b.text, b.start) and same(a.vector, b.vector)
    return bool(a == b)


NAMES = ["embed", "embed_tokens", "tokens", "classify", "rerank"]


@pytest.mark.parametrize("name", NAMES)
def test_results_and_one_warning_say_what_was_cut(name: str, methods: dict[str, Callable[..., Any]]) -> None:
    call = methods[name]
    texts = [SHORT, LONG, SHORT, LONG, LONG]
    for given in (texts, iter(texts)):
        with pytest.warns(TruncationWarning, match=r"3 of 5 (texts|docs) had more than 40 tokens and were cut") as told:
            result = call(given)
        assert result.truncated == 3 and len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call([SHORT, "a b"]).truncated == 0 and call([]).truncated == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_length_of_a_call_and_of_a_model(name: str, methods: dict[str, Callable[..., Any]], root: Path) -> None:
    call = methods[name]
    with pytest.warns(TruncationWarning):
        expected = {size: call([LONG, SHORT, "a b c d e f"], max_length=size) for size in SIZES}
    assert not same(expected[5], expected[20])
    assert expected[5].truncated > expected[40].truncated or name == "rerank"
    model = call.__self__ if hasattr(call, "__self__") else call.__closure__[0].cell_contents  # type: ignore[attr-defined]
    model = fa.load(model.path)
    own = model.embed if name == "embed" else getattr(model, name)
    for size in SIZES:
        model.max_seq_length = size
        assert model.max_seq_length == size
        with pytest.warns(TruncationWarning):
            got = own(*(["a"] if name == "rerank" else []), [LONG, SHORT, "a b c d e f"])
        assert same(got, expected[size]) and got.truncated == expected[size].truncated
        for other in (pickle.loads(pickle.dumps(model)), copy.copy(model)):
            assert other.max_seq_length == size


@pytest.mark.parametrize("name", NAMES)
def test_longer_texts_are_refused_by_name(name: str, methods: dict[str, Callable[..., Any]]) -> None:
    what = "docs" if name == "rerank" else "texts"
    with pytest.raises(fa.TextTooLong, match=rf"{what}\[2\]: more than 40 tokens, and on_long is 'error'"):
        methods[name]([SHORT, SHORT, LONG], on_long="error")
    with pytest.raises(fa.TextTooLong, match=rf"{what}\[300\]: more than 12 tokens"):
        methods[name](iter([SHORT] * 300 + [LONG]), on_long="error", max_length=12)
    assert issubclass(fa.TextTooLong, ValueError)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_length": 0}, ValueError, "max_length: texts of at most 0 tokens leave no room for 2 special"),
        ({"max_length": 41}, ValueError, "max_length: got 41, expected at most 40, the model's positions"),
        ({"max_length": 5.0}, TypeError, "max_length: expected an int or None, got float"),
        ({"max_length": True}, TypeError, "max_length: expected an int or None, got bool"),
        ({"on_long": "cut"}, ValueError, "on_long: got 'cut', expected 'truncate' or 'error'"),
        ({"on_long": None}, TypeError, "on_long: got None, expected"),
    ],
)
def test_limits_that_are_none(
    name: str, options: dict[str, Any], error: type[Exception], message: str, methods: dict[str, Callable[..., Any]]
) -> None:
    with pytest.raises(error, match=message):
        methods[name](["a"], **options)


@pytest.mark.parametrize(("length", "error"), [(0, ValueError), (41, ValueError), ("5", TypeError), (True, TypeError)])
def test_a_model_takes_no_other_lengths(length: Any, error: type[Exception], bare: TextEncoder) -> None:
    with pytest.raises(error, match="max_seq_length: "):
        bare.max_seq_length = length
    assert bare.max_seq_length == 40


def test_a_length_that_leaves_no_room_is_told_with_the_first_text(root: Path) -> None:
    model = fa.load(root / "bare")
    model.max_seq_length = 1
    for call in (model.embed, model.embed_tokens, model.tokens):
        with pytest.raises(ValueError, match="^max_seq_length: texts of at most 1 tokens leave no room for 2 special"):
            call(["a"])


def test_vectors_are_arrays_like_others(bare: TextEncoder) -> None:
    with pytest.warns(TruncationWarning):
        vectors = bare.embed([SHORT, LONG])
    assert isinstance(vectors, Vectors) and vectors.dtype == np.float32 and vectors.truncated == 1
    assert type(vectors + 1) is np.ndarray and type(vectors @ vectors.T) is np.ndarray
    assert isinstance(vectors.max(), np.float32) and vectors[:1].truncated == 0
    again = pickle.loads(pickle.dumps(vectors))
    assert type(again) is np.ndarray and np.array_equal(again, vectors)
    assert isinstance(bare.embed_tokens([SHORT]), Results)


@pytest.mark.parametrize("unit", ["word ", "x", ".", "東", "é ", "\n", "😀 ", "e\u0301 "])
def test_ten_million_characters(unit: str, bare: TextEncoder, ranker: TextEncoder) -> None:
    """Bounded memory, and other threads run meanwhile."""
    text = unit * (10_000_000 // len(unit))
    worst, done = [0.0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            start = time.perf_counter()
            time.sleep(0.001)
            worst[0] = max(worst[0], time.perf_counter() - start)

    for call in (lambda: bare.embed([text]), lambda: ranker.rerank(text, [text]), lambda: ranker.rerank("a", [text])):
        watcher = threading.Thread(target=tick)
        watcher.start()
        tracemalloc.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        done.set()
        watcher.join()
        done.clear()
        assert peak < 4 * len(text) * (1 if text.isascii() else 4) + (1 << 24)
    assert worst[0] < 1  # it was half a minute; how long it is on a quiet machine is no matter of a test


def test_a_context_of_a_million_words(reader: TextEncoder) -> None:
    """It is read to its end, in bounded memory: what answers best may stand there."""
    words = [word.removeprefix("##") for word in tiny_bert.WORDS[5:15]]
    context = " ".join(words[(i * i) % 10] for i in range(3000))
    found = reader.answer("the cat", context)
    filler = "the " * 20_000
    far = filler + context
    again = reader.answer("the cat", far)
    assert again.score >= found.score * 0.5 and far[again.start : again.end] == again.text
    narrow = reader.answer("the cat", context, max_length=20)
    assert context[narrow.start : narrow.end] == narrow.text and narrow.score > 0
    with pytest.raises(ValueError, match="question: leaves no room for its context within 6 tokens"):
        reader.answer("the cat", context, max_length=6)


# ---- prompts, activations, precisions --------------------------------------------------------------------------------


def test_prompts_stand_before_the_first_text(classifier: TextEncoder, ranker: TextEncoder, root: Path) -> None:
    assert classifier.classify([SHORT], prompt="a b ") == classifier.classify(["a b " + SHORT])
    assert classifier.classify([(SHORT, "c")], prompt="a b ") == classifier.classify([("a b " + SHORT, "c")])
    docs = ["sat on", "the mat", "b"]
    expected = ranker.rerank("a b " + SHORT, docs)
    assert ranker.rerank(SHORT, docs, prompt="a b ") == expected != ranker.rerank(SHORT, docs)
    folder = save_task_folder(root / "prompted", "sequence_classification", ["score"])
    settings = {"model_type": "CrossEncoder", "prompts": {"q": "a b ", "none": ""}, "default_prompt_name": "q"}
    write_json(folder / "config_sentence_transformers.json", settings)
    model = fa.load(folder)
    assert model.rerank(SHORT, docs) == expected == model.rerank(SHORT, docs, prompt_name="q")
    assert (
        model.rerank(SHORT, docs, prompt_name="none")
        == ranker.rerank(SHORT, docs)
        == model.rerank(SHORT, docs, prompt="")
    )
    assert model.classify([(SHORT, "b")]) == ranker.classify([("a b " + SHORT, "b")])
    for call in (model.rerank, lambda query, docs, **options: model.classify(docs, **options)):
        with pytest.raises(ValueError, match="prompt_name: got 'x', expected one of 'q', 'none'"):
            call("a", ["b"], prompt_name="x")
        with pytest.raises(ValueError, match="prompt_name: expected None where a prompt is given"):
            call("a", ["b"], prompt_name="q", prompt="b")
        with pytest.raises(TypeError, match="prompt: expected a str, got int"):
            call("a", ["b"], prompt=3)


def test_activations(classifier: TextEncoder, ranker: TextEncoder) -> None:
    texts = [SHORT, "a b"]
    raw = classifier.classify(texts, activation="none")
    by_label = [dict(zip(each.labels, each.scores, strict=True)) for each in raw]
    logits = np.array([[scores[name] for name in ("no", "yes", "maybe")] for scores in by_label], np.float32)
    for name, function in (("softmax", fa.softmax), ("sigmoid", fa.ops.sigmoid)):
        expected = function(logits)
        for each, row in zip(classifier.classify(texts, activation=name), expected, strict=True):
            assert [each.scores[each.labels.index(label)] for label in ("no", "yes", "maybe")] == row.tolist()
    assert classifier.classify(texts) == classifier.classify(texts, activation="softmax")
    plain = ranker.rerank("a", texts, activation="none")
    for got, logit in zip(ranker.rerank("a", texts), plain, strict=True):
        assert got.index == logit.index and got.score == float(fa.ops.sigmoid(np.float32([[logit.score]]))[0, 0])
    with pytest.raises(ValueError, match="activation: got 'relu', expected None or one of softmax, sigmoid, none"):
        classifier.classify(texts, activation="relu")
    with pytest.raises(ValueError, match="activation: got 'softmax', expected None or one of sigmoid, none"):
        ranker.rerank("a", texts, activation="softmax")
    with pytest.raises(TypeError, match="activation: got 3"):
        ranker.rerank("a", texts, activation=3)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_of_vectors(precision: str, bare: TextEncoder) -> None:
    from fastattn.text.precision import quantize

    texts = [SHORT, "a b", "", "sat sat"]
    vectors = np.asarray(bare.embed(texts))
    ends = np.stack([vectors.min(axis=0), vectors.max(axis=0)]) if "int" in precision else None
    got = bare.embed(texts, precision=precision, ranges=ends)
    expected = quantize(vectors, precision, ends)
    assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes() and got.shape == expected.shape
    short = None if ends is None else ends[:, :10]
    assert bare.embed(texts, precision=precision, ranges=short, truncate_dim=10).shape == (
        4,
        10 if "int" in precision else 2,
    )
    assert bare.embed([], precision=precision, ranges=ends).shape == (0, expected.shape[1])
    many = bare.embed(iter(texts * 3000), precision=precision, ranges=ends)
    assert many.shape[0] == 12_000 and many[-4:].tobytes() == expected.tobytes()


def test_ranges_are_asked_for_before_work_starts(bare: TextEncoder) -> None:
    def texts() -> Any:
        raise AssertionError("read")
        yield ""

    with pytest.raises(ValueError, match=r"ranges: None, expected a \(2, 32\) array with precision 'int8'"):
        bare.embed(texts(), precision="int8")
    with pytest.raises(ValueError, match="precision: 'int4', expected one of"):
        bare.embed(texts(), precision="int4")
    with pytest.raises(ValueError, match="ranges: .*expected None with precision 'binary'"):
        bare.embed(texts(), precision="binary", ranges=np.zeros((2, 32), np.float32))


def test_vectors_of_tokens_go_through_the_folders_modules(root: Path) -> None:
    folder = tiny_bert.save_text_folder(root / "dense")
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ])  # fmt: skip
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    write_json(folder / "2_Dense" / "config.json", {
        "in_features": 32, "out_features": 8, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"
    })  # fmt: skip
    weight = tiny_bert.uniform("dense", (8, 32))
    tiny_bert.save_safetensors(folder / "2_Dense" / "model.safetensors", {"linear.weight": weight})
    model = fa.load(folder)
    texts = [SHORT, "", "a b c"]
    matrices = model.embed_tokens(texts)
    for matrix, pieces, vector in zip(matrices, model.tokens(texts), model.embed(texts), strict=True):
        assert matrix.shape == (len(pieces) + 2, 8)
        assert np.array_equal(matrix[0], vector)  # pooling by the first token: the same numbers
        inner = np.array([piece.vector for piece in pieces], np.float32).reshape(-1, 32)
        assert np.array_equal(matrix[1:-1], fa.ops.l2_normalize(fa.linear(inner, fa.pack_linear(weight))))
    loose = model.embed_tokens(texts, normalize=False)
    assert np.array_equal(fa.ops.l2_normalize(loose[0]), matrices[0]) and not np.array_equal(loose[0], matrices[0])
    assert np.array_equal(model.embed_tokens([SHORT], prompt="a ")[0], model.embed_tokens(["a " + SHORT])[0])


# ---- tables in place of texts ----------------------------------------------------------------------------------------


class Frame:
    """Looks like a data frame: iterating gives the names of columns."""

    def __init__(self, columns: dict[Any, list[Any]], name: str = "columns") -> None:
        self._data = columns
        setattr(self, name, list(columns))

    def __getitem__(self, name: str) -> list[Any]:
        return self._data[name]

    def __iter__(self) -> Any:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


@pytest.mark.parametrize("make", [dict, Frame, lambda data: Frame(data, "column_names")])
@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ({"id": [1], "text": ["a"]}, r"its column 'text' was probably meant, as in texts\['text'\]"),
        ({"id": [1], "headline": ["a"]}, r"its column 'headline' was probably meant"),
        ({"Sentence": ["a"], "body": ["b"]}, r"its column 'Sentence' was probably meant"),
        ({"id": [1], "n": [2]}, r"with columns 'id', 'n'; pass one that holds texts"),
        ({0: [1], 1: ["a"]}, r"its column 1 was probably meant"),
        ({}, r"with columns of no name; pass one that holds texts"),
    ],
)
def test_tables_in_place_of_texts(
    make: Callable[[Any], Any], data: dict[Any, Any], hint: str, bare: TextEncoder, classifier: TextEncoder
) -> None:
    for call in (bare.embed, bare.tokens, bare.embed_tokens, classifier.classify):
        with pytest.raises(TypeError, match="texts: expected an iterable of str, got (dict|Frame).*" + hint):
            call(make(data))


def test_rows_in_place_of_texts(bare: TextEncoder, classifier: TextEncoder) -> None:
    rows = [{"id": 3, "text": "the cat"}]
    with pytest.raises(TypeError, match=r"texts\[0\]: expected a str, got dict; its column 'text' was probably meant"):
        bare.embed(rows)
    with pytest.raises(TypeError, match=r"texts\[0\]: expected a str or a pair of them, got dict; its column 'text'"):
        classifier.classify(rows)
