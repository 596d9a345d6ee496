# SPDX-License-Identifier: MIT
"""timeout= of calls with texts: the tokenizer and the reading of texts see it as the model does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import save_task_folder

import fastattn as fa
from fastattn.text.cutting import Cutter

pytest.importorskip("tokenizers")
SLACK = 0.15  # seconds beyond the deadline; some milliseconds on a machine that is not busy with something else


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    labels = {"sequence_classification": ["score"], "token_classification": ["O", "B-X"], "question_answering": None}
    found = {task: fa.load(save_task_folder(folder / task, task, labels[task])) for task in labels}
    return {"none": fa.load(tiny_bert.save_text_folder(folder / "none")), **found}


Call = Callable[[dict[str, Any], Any, float | None], Any]

# With texts as an iterable, each.
CALLS: dict[str, Call] = {
    "embed": lambda m, texts, timeout: m["none"].embed(texts, timeout=timeout),
    "embed bits": lambda m, texts, timeout: m["none"].embed(texts, precision="binary", timeout=timeout),
    "embed_tokens": lambda m, texts, timeout: m["none"].embed_tokens(texts, timeout=timeout),
    "vectors": lambda m, texts, timeout: m["none"].tokens(texts, timeout=timeout),
    "tokens": lambda m, texts, timeout: m["token_classification"].tokens(texts, timeout=timeout),
    "classify": lambda m, texts, timeout: m["sequence_classification"].classify(texts, timeout=timeout),
    "pairs": lambda m, texts, timeout: m["sequence_classification"].classify(
        ((text, text) for text in texts), timeout=timeout
    ),
    "rerank": lambda m, texts, timeout: m["sequence_classification"].rerank("the cat", texts, timeout=timeout),
}


def late(call: Callable[[], Any], timeout: float) -> float:
    """Seconds after the deadline at which ``call`` raised, the best of some attempts."""
    found = 9.0
    for _ in range(4):
        begin = time.monotonic()
        with pytest.raises(fa.DeadlineExceeded):
            call()
        found = min(found, time.monotonic() - begin - timeout)
        if found <= SLACK:
            break
    return found


def bits(result: Any) -> bytes:
    return result.tobytes() if isinstance(result, np.ndarray) else repr(list(result)).encode()


def slow() -> Iterator[str]:
    while True:
        time.sleep(0.002)
        yield "the cat"


@pytest.mark.parametrize("name", CALLS)
def test_texts_without_end(models: dict[str, Any], name: str) -> None:
    expected = bits(CALLS[name](models, ["the cat sat", "a dog"], None))
    assert late(lambda: CALLS[name](models, itertools.repeat("the cat sat on the mat"), 0.1), 0.1) <= SLACK
    assert late(lambda: CALLS[name](models, slow(), 0.05), 0.05) <= SLACK
    with pytest.raises(fa.DeadlineExceeded):
        CALLS[name](models, ["the cat"], 1e-9)
    assert bits(CALLS[name](models, ["the cat sat", "a dog"], 60)) == expected


HUGE = {
    "white space": " " * 300_000_000,
    "one word": "a" * 300_000_000,
    "letters that are not ASCII": "é" * 100_000_000,
    "words behind white space": " " * 200_000_000 + "the cat ",
}


@pytest.mark.parametrize("kind", HUGE)
def test_one_huge_text(models: dict[str, Any], kind: str) -> None:
    text = HUGE[kind]
    assert late(lambda: models["none"].embed([text], timeout=0.01), 0.01) <= SLACK
    assert late(lambda: models["none"].tokens([text], timeout=0.01), 0.01) <= SLACK


def test_an_answer_in_a_huge_context(models: dict[str, Any]) -> None:
    model, context, lines = models["question_answering"], "the cat sat on the mat. " * 200_000, "\n" * 200_000_000
    expected = model.answer("the cat", context[:500])
    assert late(lambda: model.answer("the cat", context, timeout=0.1), 0.1) <= SLACK
    assert late(lambda: model.answer("the cat", lines, timeout=0.01), 0.01) <= SLACK
    assert model.answer("the cat", context[:500], timeout=60) == expected


def test_a_query_is_read_in_time(models: dict[str, Any]) -> None:
    model, query = models["sequence_classification"], " " * 200_000_000 + "a"
    assert late(lambda: model.rerank(query, ["b"], timeout=0.01), 0.01) <= SLACK


@pytest.mark.parametrize("parallel", ["true", "false"])
def test_the_librarys_own_way(models: dict[str, Any], parallel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts come to it a few at a time where the call has a deadline; the results are the same."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
    texts = ["the cat sat on the mat " * count for count in (1, 400, 3, 350, 0, 390)] * 60
    model = models["none"]
    expected = model.embed(texts, max_length=30).tobytes()
    assert model.embed(texts, max_length=30, timeout=600).tobytes() == expected
    assert late(lambda: model.embed(itertools.chain.from_iterable(itertools.repeat(texts)), timeout=0.1), 0.1) <= SLACK


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("embed", (["a"],)), ("embed_tokens", (["a"],)), ("tokens", (["a"],)), ("classify", (["a"],)),
     ("rerank", ("a", ["b"])), ("answer", ("a", "b"))],
)  # fmt: skip
def test_refused(models: dict[str, Any], method: str, arguments: tuple[Any, ...]) -> None:
    task = {"classify": "sequence_classification", "rerank": "sequence_classification", "answer": "question_answering"}
    call = getattr(models[task.get(method, "none")], method)
    for wrong in (0, -1.5, float("nan")):
        with pytest.raises(ValueError, match="timeout: got .*, expected seconds above 0"):
            call(*arguments, timeout=wrong)
    for odd in ("1", True, [1.0]):
        with pytest.raises(TypeError, match="timeout: expected seconds or None, got"):
            call(*arguments, timeout=odd)


def test_the_cutter_asks_wherever_a_text_is_long(models: dict[str, Any]) -> None:
    cutter = models["none"].pipeline.tokenizer._cutter
    assert isinstance(cutter, Cutter)
    for text in (" " * 1_000_000, "a" * 2_000_000, "a b " * 200_000):
        for pieces in (cutter.forward, cutter.backward):
            asked: list[None] = []
            if text[:2] == "aa" and pieces == cutter.backward:
                continue  # refused: a word has to be seen from its beginning
            list(pieces(text, 256, lambda asked=asked: asked.append(None)))
            assert len(asked) >= len(text) // 70_000
