# SPDX-License-Identifier: MIT
"""classify, rerank, tokens and answer: against double precision in NumPy, in any company, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import head_tensors, save_task_folder, write_json

import fastattn as fa
from fastattn.text import TextEncoder, TextSettings, TextTokenizer

pytest.importorskip("tokenizers")

Array = np.ndarray[Any, Any]
PAIRS = [("the cat", "sat on the mat."), ("", "a b c"), ("a", ""), ("cats " * 30, "the mat"), ("a b", "sat " * 60)]
TEXTS = ["the cat sat on the mat.", "", "a", "b c d", "cats, longer cats!", "abcd " * 5, "東京 über", "on " * 100]
LABELS = ["red", "green", "blue"]
ENTITIES = ["O", "B-CAT", "I-CAT", "B-MAT", "I-MAT", "PLAIN"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def classifier(folders: Path) -> TextEncoder:
    return fa.load(save_task_folder(folders / "classes", "sequence_classification", LABELS))


@pytest.fixture(scope="module")
def crossencoder(folders: Path) -> TextEncoder:
    return fa.load(save_task_folder(folders / "cross", "sequence_classification", ["score"]))


@pytest.fixture(scope="module")
def tagger(folders: Path) -> TextEncoder:
    return fa.load(save_task_folder(folders / "tags", "token_classification", ENTITIES))


@pytest.fixture(scope="module")
def reader(folders: Path) -> TextEncoder:
    return fa.load(save_task_folder(folders / "answers", "question_answering"))


@pytest.fixture(scope="module")
def bare(folders: Path) -> TextEncoder:
    return fa.load(tiny_bert.save_text_folder(folders / "bare"))


def tokenizer_of(model: TextEncoder) -> TextTokenizer:
    return TextTokenizer(model.files, TextSettings.read(model.files), model.max_positions)


def logits_of(model: TextEncoder, item: Any) -> Array:
    ids, types = tokenizer_of(model).encode(item)
    return np.asarray(model(ids[None], token_type_ids=types[None]).logits[0], np.float64)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# ---- pairs ---------------------------------------------------------------------------------------------------------


def words(ids: Array) -> str:
    return " ".join(tiny_bert.WORDS[i] for i in ids)


def test_tokens_of_pairs(bare: TextEncoder) -> None:
    ids, types = tokenizer_of(bare).encode(("the cat", "sat."))
    assert words(ids) == "[CLS] the cat [SEP] sat . [SEP]"
    assert types.tolist() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("first", [0, 1, 5, 17, 18, 19, 36, 37, 38, 50, 2000])
@pytest.mark.parametrize("second", [0, 1, 5, 17, 18, 19, 36, 37, 38, 50, 2000])
def test_pairs_lose_the_tokens_of_the_longer_text(bare: TextEncoder, first: int, second: int) -> None:
    """By the rule: as long as there are too many, the longer text loses one; of equal ones the second."""
    a, b = first, second
    while a + b > 37:  # of 40 positions, three are special
        a, b = (a - 1, b) if a > b else (a, b - 1)
    ids, types = tokenizer_of(bare).encode(("a " * first, "b " * second))
    got = words(ids).split()
    assert len(ids) <= 40 and got.count("[SEP]") == 2
    assert abs(got.count("a") - a) <= 1 and got.count("a") + got.count("b") == a + b
    assert types.sum() == got.count("b") + 1


def test_very_long_pairs_are_those_of_the_whole_texts(bare: TextEncoder) -> None:
    tokenizer = tokenizer_of(bare)
    whole = pytest.importorskip("tokenizers").Tokenizer.from_buffer((bare.path / "tokenizer.json").read_bytes())
    whole.no_padding()
    whole.enable_truncation(40)
    for first in ("the cat", "a b " * 300, "x" * 3000):
        for second in ("the mat sat. " * 1000, "東" * 5000, "y" * 4000):
            expected = whole.encode(first, second)
            assert tokenizer.encode((first, second))[0].tolist() == expected.ids
            assert tokenizer.encode((first, second))[1].tolist() == expected.type_ids


def test_no_room_for_a_pair(folders: Path) -> None:
    folder = save_task_folder(folders / "tight", "sequence_classification", LABELS)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 2})
    model = fa.load(folder)
    assert len(model.classify(["the cat"])) == 1
    with pytest.raises(ValueError, match="at most 2 tokens leave no room for the 3 special tokens of a pair"):
        model.classify([("the", "cat")])


def test_models_that_are_not_told_types(folders: Path) -> None:
    folder = save_task_folder(folders / "untyped", "sequence_classification", LABELS)
    typed = fa.load(folder).classify([("the cat", "sat")])[0]
    write_json(folder / "tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]})
    model = fa.load(folder)
    ids, types = tokenizer_of(model).encode(("the cat", "sat"))
    assert not types.any()
    got = model.classify([("the cat", "sat")])[0]
    assert got != typed
    expected = softmax(np.asarray(model(ids[None]).logits[0], np.float64))
    assert abs(got.score - expected.max()) < 1e-6
    write_json(folder / "tokenizer_config.json", {"model_input_names": "input_ids"})
    with pytest.raises(ValueError, match="model_input_names is 'input_ids', expected a list of names"):
        fa.load(folder).classify(["a"])


# ---- classify ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "finish"),
    [
        (None, softmax),
        ("single_label_classification", softmax),
        ("multi_label_classification", sigmoid),
        ("regression", lambda x: x),
    ],
)
def test_classify(folders: Path, problem: str | None, finish: Callable[[Array], Array]) -> None:
    folder = save_task_folder(folders / str(problem), "sequence_classification", LABELS, problem_type=problem)
    model = fa.load(folder)
    items = [*TEXTS, *PAIRS]
    for item, got in zip(items, model.classify(items), strict=True):
        expected = finish(logits_of(model, item))
        order = np.argsort(-expected)
        assert got.labels == tuple(LABELS[i] for i in order) and got.label == got.labels[0]
        assert np.abs(np.array(got.scores) - expected[order]).max() < 2e-6 and got.score == got.scores[0]
        assert model.classify([item], top_k=2)[0] == (got.label, got.score, got.labels[:2], got.scores[:2])
        assert model.classify([item], top_k=9)[0] == got


def test_one_label_is_a_sigmoid_unless_it_is_a_regression(folders: Path, crossencoder: TextEncoder) -> None:
    logit = logits_of(crossencoder, "the cat")[0]
    assert abs(crossencoder.classify(["the cat"])[0].score - sigmoid(logit)) < 1e-6
    folder = save_task_folder(folders / "one", "sequence_classification", ["score"], problem_type="regression")
    assert abs(fa.load(folder).classify(["the cat"])[0].score - logit) < 1e-6


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_same_bits_in_any_company(classifier: TextEncoder, batch_size: int | None, threads: int | None) -> None:
    items = [*TEXTS, *PAIRS]
    alone = [classifier.classify([item])[0] for item in items]
    assert classifier.classify(items, batch_size=batch_size, num_threads=threads) == alone
    assert classifier.classify(iter(items[::-1]), batch_size=batch_size, num_threads=threads)[::-1] == alone


def test_several_heads(folders: Path, classifier: TextEncoder) -> None:
    model = fa.load(folders / "classes")
    other = fa.load(save_task_folder(folders / "second", "sequence_classification", ["yes", "no"]))
    model.add_head("second", other)
    assert model.classify(TEXTS) == classifier.classify(TEXTS)
    assert model.classify(TEXTS, head="second") == other.classify(TEXTS, head="sequence_classification")
    with pytest.raises(ValueError, match="head: got 'third', expected one of 'sequence_classification', 'second'"):
        model.classify(TEXTS, head="third")
    with pytest.raises(ValueError, match="head: 'second' is for sequence_classification, expected one for token_cl"):
        model.tokens(TEXTS, head="second")


def test_classify_by_windows(classifier: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = classifier.classify(TEXTS * 3)
    monkeypatch.setattr("fastattn.text.batches._WINDOW", 5)
    assert classifier.classify(text for text in TEXTS * 3) == whole
    monkeypatch.setattr("fastattn.text.batches._WINDOW_CHARACTERS", 20)
    assert classifier.classify(TEXTS * 3) == whole


# ---- rerank --------------------------------------------------------------------------------------------------------


def test_rerank(crossencoder: TextEncoder) -> None:
    docs = [*TEXTS, TEXTS[0]]
    scores = np.array([sigmoid(logits_of(crossencoder, ("a cat", doc))[0]) for doc in docs])
    got = crossencoder.rerank("a cat", docs)
    assert [index for index, _ in got] == np.argsort(-scores, kind="stable").tolist()
    assert np.abs(np.array([score for _, score in got]) - scores[[index for index, _ in got]]).max() < 1e-6
    assert crossencoder.rerank("a cat", iter(docs), top_k=3) == got[:3]
    assert crossencoder.rerank("a cat", docs, top_k=100, batch_size=2) == got
    assert crossencoder.rerank("a cat", []) == []
    same = [index for index, _ in got if docs[index] == TEXTS[0]]
    assert same == [0, len(docs) - 1]


@pytest.mark.parametrize(
    ("file", "values", "finish"),
    [
        ("config.json", {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, lambda x: x),
        ("config.json", {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, np.tanh),
        ("config.json", {"sentence_transformers": {"version": "4.0"}}, sigmoid),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.linear.Identity"}, lambda x: x),
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.modules.activation.Sigmoid"}, sigmoid),
    ],
)
def test_activation_of_a_cross_encoder(
    tmp_path: Path, file: str, values: dict[str, Any], finish: Callable[[Array], Array]
) -> None:
    config = values if file == "config.json" else {}
    folder = save_task_folder(tmp_path / "cross", "sequence_classification", ["score"], **config)
    if file != "config.json":
        write_json(folder / file, values)
    model = fa.load(folder)
    for index, score in model.rerank("a cat", TEXTS):
        assert abs(score - finish(logits_of(model, ("a cat", TEXTS[index])))[0]) < 1e-6


def test_an_activation_that_is_unknown(tmp_path: Path) -> None:
    folder = save_task_folder(
        tmp_path / "cross", "sequence_classification", ["score"], sbert_ce_default_activation_function="mine.Activation"
    )
    with pytest.raises(ValueError, match="sbert_ce_default_activation_function is 'mine.Activation', expected one of"):
        fa.load(folder).rerank("a", ["b"])


# ---- tokens --------------------------------------------------------------------------------------------------------


def test_tokens(tagger: TextEncoder) -> None:
    results = tagger.tokens(TEXTS)
    tokenizer = tokenizer_of(tagger)
    for text, got in zip(TEXTS, results, strict=True):
        scores = softmax(np.asarray(logits_of(tagger, text)))[1:-1]
        ids = tokenizer.encode(text)[0][1:-1]
        assert [token.label for token in got] == [ENTITIES[i] for i in scores.argmax(axis=1)]
        assert np.allclose([token.score for token in got], scores.max(axis=1, initial=0), atol=2e-6, rtol=0)
        for token, i in zip(got, ids, strict=True):
            assert token.text == text[token.start : token.end] and token.vector is None
            if tiny_bert.WORDS[i] != "[UNK]":
                assert tiny_bert.WORDS[i].removeprefix("##") == token.text
    assert results[1] == []


def test_vectors_of_tokens(bare: TextEncoder, tagger: TextEncoder) -> None:
    tokenizer = tokenizer_of(bare)
    for model, options in ((bare, {}), (tagger, {"vectors": True})):
        for text, got in zip(TEXTS, model.tokens(TEXTS, **options), strict=True):
            ids = tokenizer.encode(text)[0]
            hidden = bare([ids.tolist()]).last_hidden_state[0, 1:-1]
            assert len(got) == len(hidden)
            for token, vector in zip(got, hidden, strict=True):
                assert token.vector is not None and token.vector.tobytes() == vector.tobytes()
                assert (token.label is None) == (model is bare)
    assert all(token.vector is None for token in bare.tokens(["the cat"], vectors=False)[0])


def test_offsets_are_those_of_the_text_before_it_was_lower_cased(folders: Path) -> None:
    folder = save_task_folder(folders / "lower", "token_classification", ENTITIES)
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    text = "İİ the CAT İ Cats"  # the first letters become two each
    got = fa.load(folder).tokens([text])[0]
    pieces = [token.text for token in got]
    assert [piece for piece in pieces if "İ" not in piece] == ["the", "CAT", "Cat", "s"]
    assert all(text[token.start : token.end] == token.text for token in got)


def entities(labels: list[str], scores: list[float], spans: list[tuple[int, int]]) -> list[tuple[str, float, int, int]]:
    """Grouped by the rule: a token joins the group before it if it names the same entity and does not begin one."""
    groups: list[list[int]] = []
    for i, label in enumerate(labels):
        name = label[2:] if label[:2] in ("B-", "I-") else label
        last = labels[i - 1] if i else ""
        same = i > 0 and name == (last[2:] if last[:2] in ("B-", "I-") else last)
        if same and not label.startswith("B-"):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [
        (labels[g[0]].split("-", 1)[-1], float(np.mean([scores[i] for i in g])), spans[g[0]][0], spans[g[-1]][1])
        for g in groups
        if labels[g[0]] != "O"
    ]


def test_entities(tagger: TextEncoder) -> None:
    texts = [*TEXTS, " ".join(tiny_bert.WORDS[5:25]).replace("##", ""), "the the cat cat mat mat a b c d a b c d" * 2]
    together = 0
    for text, plain, got in zip(texts, tagger.tokens(texts), tagger.tokens(texts, aggregate=True), strict=True):
        labels, spans = [str(token.label) for token in plain], [(token.start, token.end) for token in plain]
        expected = entities(labels, [float(token.score or 0) for token in plain], spans)
        assert [(e.label, e.start, e.end) for e in got] == [(label, a, b) for label, _, a, b in expected]
        assert np.allclose([e.score for e in got], [score for _, score, _, _ in expected], atol=1e-6, rtol=0)
        assert all(e.text == text[e.start : e.end] for e in got)
        together += len(expected) < len([label for label in labels if label != "O"])
    assert together >= 3


# ---- answer --------------------------------------------------------------------------------------------------------


def best_span(model: TextEncoder, question: str, context: str, longest: int) -> tuple[int, int, float]:
    """The best span by trying all, for a context that fits."""
    ids, types = tokenizer_of(model).encode((question, context))
    out = model(ids[None], token_type_ids=types[None])
    inside = [i for i in range(len(ids)) if types[i] == 1][:-1]
    allowed = [0, *inside]
    starts = softmax(np.asarray(out.start_logits[0], np.float64)[allowed])
    ends = softmax(np.asarray(out.end_logits[0], np.float64)[allowed])
    best = (0, 0, -1.0)
    for i in range(1, len(allowed)):
        for j in range(i, min(i + longest, len(allowed))):
            if starts[i] * ends[j] > best[2]:
                best = (i - 1, j - 1, float(starts[i] * ends[j]))
    return best


@pytest.mark.parametrize("longest", [1, 3, 15])
def test_answer(reader: TextEncoder, longest: int) -> None:
    for context in ("the cat sat on the mat.", "a b c d cats, mat!", "sat", "on the mat the cat a b c d a b c d"):
        for question in ("the cat", "a b", ""):
            first, last, score = best_span(reader, question, context, longest)
            tokens = reader.tokens([context])[0]
            got = reader.answer(question, context, max_answer_tokens=longest)
            assert (got.start, got.end) == (tokens[first].start, tokens[last].end)
            assert got.text == context[got.start : got.end] and abs(got.score - score) < 1e-6


def test_answer_in_a_long_context(reader: TextEncoder) -> None:
    context = " ".join(tiny_bert.WORDS[5 + i % 10].removeprefix("##") for i in range(300))
    got = reader.answer("the cat", context)
    assert got.text == context[got.start : got.end] and got.score > 0
    pieces = list(tokenizer_of(reader).encode_windows("the cat", context))
    assert len(pieces) > 8
    whole = pytest.importorskip("tokenizers").Tokenizer.from_buffer((reader.path / "tokenizer.json").read_bytes())
    whole.no_padding()
    whole.enable_truncation(40, stride=17, strategy="only_second")
    encoding = whole.encode("the cat", context)
    expected = [encoding, *encoding.overflowing]
    assert [tokens[0].tolist() for tokens, _ in pieces] == [piece.ids for piece in expected]
    assert [tokens[1].tolist() for tokens, _ in pieces] == [piece.type_ids for piece in expected]
    covered = np.concatenate([offsets[offsets[:, 0] >= 0] for _, offsets in pieces])
    assert len(np.unique(covered[:, 0])) == 300 + context.count("cats")
    alone = max(best_span_of_piece(reader, tokens, offsets) for tokens, offsets in pieces)
    assert abs(got.score - alone) < 1e-6
    assert reader.answer("the cat", "") == ("", 0, 0, 0.0)


def best_span_of_piece(model: TextEncoder, tokens: tuple[Array, Array], offsets: Array) -> float:
    out = model(tokens[0][None], token_type_ids=tokens[1][None])
    allowed = [0, *np.flatnonzero(offsets[:, 0] >= 0)]
    starts = softmax(np.asarray(out.start_logits[0], np.float64)[allowed])[1:]
    ends = softmax(np.asarray(out.end_logits[0], np.float64)[allowed])[1:]
    return max(float(starts[i] * ends[j]) for i in range(len(starts)) for j in range(i, min(i + 15, len(ends))))


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.classify("text"), TypeError, r"texts: got one str; pass a list"),
        (lambda m: m.classify(5), TypeError, r"texts: expected an iterable of str, got int"),
        (lambda m: m.classify(["a", None]), TypeError, r"texts\[1\]: expected a str or a pair of them, got NoneType"),
        (lambda m: m.classify(["a", ("a", None)]), TypeError, r"texts\[1\]\[1\]: expected a str, got NoneType"),
        (lambda m: m.classify([("a", "b", "c")]), ValueError, r"texts\[0\]: a tuple of 3, expected a str or a pair"),
        (lambda m: m.classify(iter(["a", 3])), TypeError, r"texts\[1\]: expected a str or a pair of them, got int"),
        (lambda m: m.classify(["\udfff"]), ValueError, r"texts\[0\]: half a surrogate pair"),
        (lambda m: m.classify(["a"], top_k=0), ValueError, "top_k: got 0, expected at least 1"),
        (lambda m: m.classify(["a"], top_k=1.5), TypeError, "top_k: expected an int or None, got float"),
        (lambda m: m.classify(["a"], batch_size=0), ValueError, "batch_size: got 0"),
        (lambda m: m.classify(["a"], head=3), TypeError, "head: expected a str or None, got int"),
        (lambda m: m.rerank("a", ["b"]), ValueError, "the head has 3 labels, expected 1: a cross-encoder"),
        (lambda m: m.tokens(["a"], aggregate=True), ValueError, "no head for token classification .heads: sequence_cl"),
        (lambda m: m.answer("a", "b"), ValueError, "no head for question answering"),
        (lambda m: m.tokens(["a"], vectors=1), TypeError, "vectors: expected a bool or None, got int"),
        (lambda m: m.tokens(["a"], aggregate=None), TypeError, "aggregate: expected a bool, got NoneType"),
        (
            lambda m: m.tokens(["a"], aggregate=True, vectors=True),
            ValueError,
            "vectors: expected False or None with ag",
        ),
    ],
)
def test_refused_by_a_classifier(classifier: TextEncoder, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(classifier)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.rerank(None, ["b"]), TypeError, "query: expected a str, got NoneType"),
        (lambda m: m.rerank(["a"], ["b"]), TypeError, "query: expected a str, got list"),
        (lambda m: m.rerank("a", "b"), TypeError, r"docs: got one str; pass a list"),
        (lambda m: m.rerank("a", None), TypeError, "docs: expected an iterable of str, got NoneType"),
        (lambda m: m.rerank("a", ["b", ("c", "d")]), TypeError, r"docs\[1\]: expected a str, got tuple"),
        (lambda m: m.rerank("a", ["b"], top_k=0), ValueError, "top_k: got 0"),
    ],
)
def test_refused_by_a_cross_encoder(crossencoder: TextEncoder, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(crossencoder)


def test_refused_by_other_models(bare: TextEncoder, tagger: TextEncoder, reader: TextEncoder) -> None:
    with pytest.raises(
        ValueError, match=r"bare: the model has no head for sequence classification \(heads: none at al"
    ):
        bare.classify(["a"])
    with pytest.raises(ValueError, match="no head for sequence classification"):
        bare.rerank("a", ["b"])
    with pytest.raises(TypeError, match=r"texts\[1\]: expected a str, got tuple"):
        tagger.tokens(["a", ("a", "b")])
    with pytest.raises(TypeError, match="context: expected a str, got NoneType"):
        reader.answer("a", None)
    with pytest.raises(ValueError, match="max_answer_tokens: got 0"):
        reader.answer("a", "b", max_answer_tokens=0)
    with pytest.raises(ValueError, match="question: leaves no room for its context within 40 tokens"):
        reader.answer("a " * 100, "b")


def test_a_label_count_that_disagrees(tmp_path: Path) -> None:
    folder = save_task_folder(tmp_path / "model", "sequence_classification", LABELS)
    arrays = {f"bert.{key}": array for key, array in tiny_bert.tensors("plain").items()}
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays | head_tensors("sequence_classification", 4))
    with pytest.raises(ValueError, match=r"classifier\.(weight|bias)' has shape \[4.*config.json asks for \[3"):
        fa.load(folder)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    folder = save_task_folder(tmp_path / "model", "question_answering")
    arrays = {f"bert.{key}": array for key, array in tiny_bert.tensors("plain").items() if "pooler" not in key}
    arrays |= head_tensors("question_answering", 2)
    arrays["qa_outputs.bias"] = np.array([0, np.nan], np.float32)
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    with pytest.raises(ValueError, match="model: the scores are not numbers: the weights are damaged"):
        fa.load(folder).answer("the cat", "sat on the mat")


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    folder = save_task_folder(tmp_path / "model", "sequence_classification", ["score"])
    (folder / "tokenizer.json").unlink()
    model = fa.load(folder)
    assert model([[1, 2]]).logits.shape == (1, 1)
    for call in (lambda: model.classify(["a"]), lambda: model.rerank("a", ["b"]), lambda: model.embed(["a"])):
        with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: needed to embed text or classify it"):
            call()


def test_a_classifier_needs_no_settings_of_vectors(tmp_path: Path) -> None:
    folder = save_task_folder(tmp_path / "model", "sequence_classification", LABELS)
    expected = fa.load(folder).classify(TEXTS)
    write_json(folder / "modules.json", [{"type": "sentence_transformers.models.Telepathy", "path": ""}])
    model = fa.load(folder)
    assert model.classify(TEXTS) == expected
    with pytest.raises(ValueError, match="modules Telepathy are not supported"):
        model.embed(["a"])
