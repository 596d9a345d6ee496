# SPDX-License-Identifier: MIT
"""``max_seq_length`` set on a model counts in every call that has no ``max_length`` of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.text_folders import save_task_folder

pytest.importorskip("tokenizers")

import fastattn as fa

LONG = "the cat sat on the mat and " * 4
TASKS: dict[str, tuple[str, list[str], Callable[..., Any]]] = {
    "embed": ("sequence_classification", ["a", "b"], lambda m, **k: m.embed([LONG], **k)),
    "embed_tokens": ("sequence_classification", ["a", "b"], lambda m, **k: m.embed_tokens([LONG], **k)[0]),
    "classify": ("sequence_classification", ["a", "b"], lambda m, **k: m.classify([(LONG, LONG)], **k)[0].scores),
    "rerank": ("sequence_classification", ["a"], lambda m, **k: m.rerank(LONG, ["mat", LONG], **k)),
    "tokens": ("token_classification", ["a", "b"], lambda m, **k: [t.score for t in m.tokens([LONG], **k)[0]]),
    "answer": ("question_answering", ["a", "b"], lambda m, **k: m.answer("cat", LONG, **k)),
}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Callable[..., Any]]:
    kind, labels, call = TASKS[request.param]
    return fa.load(save_task_folder(tmp_path, kind, labels)), call


@pytest.mark.filterwarnings("ignore::fastattn.text.TruncationWarning")
def test_it_counts_where_a_call_has_none(task: tuple[Any, Callable[..., Any]]) -> None:
    model, call = task
    before = model.max_seq_length
    expected = {length: call(model, max_length=length) for length in (9, 15, before)}
    assert not np.array_equal(expected[9], expected[before])
    for length, value in expected.items():
        model.max_seq_length = length
        assert model.max_seq_length == length and np.array_equal(call(model), value)
    assert np.array_equal(call(model, max_length=9), expected[9])


def test_it_leaves_no_room(task: tuple[Any, Callable[..., Any]]) -> None:
    """Special tokens are known with the tokenizer: the first call says what it was."""
    model, call = task
    model.max_seq_length = 1
    with pytest.raises(ValueError, match="^max_seq_length: texts of at most 1 tokens leave no room for 2 special"):
        call(model)


@pytest.mark.parametrize("wrong", [0, -1, 41, 10**30, None, "9", 9.0, True])
def test_what_it_cannot_be(task: tuple[Any, Callable[..., Any]], wrong: Any) -> None:
    model, _ = task
    before = model.max_seq_length
    with pytest.raises(ValueError if type(wrong) is int else TypeError, match="^max_seq_length: "):
        model.max_seq_length = wrong
    assert model.max_seq_length == before
