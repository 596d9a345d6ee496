# SPDX-License-Identifier: MIT
"""What calls tell the logger "fastattn" at debug level: how much and how long, once each, and no content."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.processes import output_of, run_python
from support.text_folders import save_task_folder

import fastattn as fa
from fastattn import calllog
from fastattn.text import TextEncoder, batches

pytest.importorskip("tokenizers")

SHORT, LONG = "the cat", "the cat sat on the mat. " * 30
TEXTS = [SHORT, "the secret mat", SHORT]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def loaded(root: Path) -> dict[str, TextEncoder]:
    found = {
        name: fa.load(save_task_folder(root / name, kind, labels))
        for name, kind, labels in (
            ("classifier", "sequence_classification", ["no", "yes", "maybe"]),
            ("ranker", "sequence_classification", ["score"]),
            ("tagger", "token_classification", ["O", "B-X"]),
            ("reader", "question_answering", None),
        )
    }
    return {"bare": fa.load(tiny_bert.save_text_folder(root / "bare")), **found}


@pytest.fixture
def calls(loaded: dict[str, TextEncoder]) -> dict[str, tuple[TextEncoder, Callable[..., Any]]]:
    """Name -> the model, and a call of it with TEXTS."""
    bare, ranker = loaded["bare"], loaded["ranker"]
    return {
        "embed": (bare, lambda **o: bare.embed(TEXTS, **o)),
        "embed_tokens": (bare, lambda **o: bare.embed_tokens(iter(TEXTS), **o)),
        "tokens": (loaded["tagger"], lambda **o: loaded["tagger"].tokens(TEXTS, **o)),
        "classify": (loaded["classifier"], lambda **o: loaded["classifier"].classify(TEXTS, **o)),
        "rerank": (ranker, lambda **o: ranker.rerank("a", TEXTS, **o)),
        "answer": (loaded["reader"], lambda **o: loaded["reader"].answer("the secret?", SHORT, **o)),
        "model": (bare, lambda **o: bare([[2, 5, 3], [2, 6, 3]], [[1, 1, 1], [1, 1, 0]], **o)),
        "run_heads": (ranker, lambda **o: ranker.run_heads([[2, 5, 3], [2, 6, 3]], **o)),
    }


NAMES = ["embed", "embed_tokens", "tokens", "classify", "rerank", "answer", "model", "run_heads"]


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Takes what was told since it was last asked, at debug level."""

    def take() -> list[dict[str, Any]]:
        found = [record for record in caplog.records if record.name == "fastattn"]
        caplog.clear()
        assert all(record.levelno == logging.DEBUG for record in found)
        return [{**record.__dict__["fastattn"], "message": record.getMessage()} for record in found]

    with caplog.at_level(logging.DEBUG, "fastattn"):
        yield take


@pytest.mark.parametrize("name", NAMES)
def test_one_record_for_each_call(name: str, calls: dict[str, Any], records: Any) -> None:
    model, call = calls[name]
    call(num_threads=2)
    (record,) = records()
    encode = model.pipeline.tokenizer.encode
    tokens, texts = {
        "rerank": (sum(len(encode(("a", text))[0]) for text in TEXTS), 3),
        "answer": (len(encode(("the secret?", SHORT))[0]), 1),
        "model": (5, 2),
        "run_heads": (6, 2),
    }.get(name, (sum(len(encode(text)[0]) for text in TEXTS), 3))
    assert (record["call"], record["texts"], record["tokens"], record["truncated"]) == (name, texts, tokens, 0)
    assert record["threads"] == 2 and record["tokenizer_seconds"] >= 0 and record["model_seconds"] > 0
    assert record["tokenizer_seconds"] + record["model_seconds"] <= record["seconds"] < 60
    assert record["message"].startswith(
        f"{name}: {texts} text{'s' * (texts > 1)} (0 cut), {tokens} tokens, tokenizer 0."
    )
    assert record["message"].endswith(" s, 2 threads")
    assert "secret" not in repr(record), "texts are private"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_without_a_listener(name: str, calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And one question of a call."""
    asked: list[int] = []
    logger = logging.getLogger("fastattn")
    monkeypatch.setattr(logger, "isEnabledFor", lambda level: bool(asked.append(level)))
    monkeypatch.setattr(calllog, "CallLog", lambda call: pytest.fail("it makes a record"))
    calls[name][1]()
    assert asked == [logging.DEBUG]


def test_warm_is_one_call(loaded: dict[str, TextEncoder], records: Any) -> None:
    for model in loaded.values():
        model.warm()
        (record,) = records()
        assert (record["call"], record["texts"]) == ("warm", 1)


def test_what_is_cut_and_what_comes_in_parts_is_counted(
    loaded: dict[str, TextEncoder], records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_WINDOW", 2)
    model, texts = loaded["bare"], [SHORT, LONG, LONG, SHORT, "a"]
    with pytest.warns(fa.text.TruncationWarning):
        model.embed(iter(texts), max_length=8)
    (record,) = records()
    sizes = [len(model.pipeline.tokenizer.encode(text, 8)[0]) for text in texts]
    assert (record["texts"], record["tokens"], record["truncated"]) == (5, sum(sizes), 2)
    loaded["reader"].answer("a", LONG * 40)  # many windows of one context
    (record,) = records()
    assert record["texts"] == 1 and record["tokens"] > 3000 and record["model_seconds"] > 0


def test_the_time_of_who_gives_the_texts_is_not_counted(loaded: dict[str, TextEncoder], records: Any) -> None:
    def slow() -> Iterator[str]:
        for text in TEXTS:
            threading.Event().wait(0.1)
            yield text

    loaded["bare"].embed(slow())
    (record,) = records()
    assert record["seconds"] > 0.25 > record["tokenizer_seconds"] + record["model_seconds"]


def test_threads_of_the_call_the_model_and_the_process(
    root: Path, loaded: dict[str, TextEncoder], records: Any
) -> None:
    model = fa.load(root / "bare", num_threads=3)
    model.embed([SHORT])
    model([[2, 3]])
    model.embed([SHORT], num_threads=1)
    try:
        fa.set_num_threads(4)
        loaded["bare"].embed([SHORT])
        loaded["bare"]([[2, 3]])
    finally:
        fa.set_num_threads(None)
    found = records()
    assert [record["threads"] for record in found] == [3, 3, 1, 4, 4]
    assert found[2]["message"].endswith(" 1 thread")


@pytest.mark.parametrize("given", [{"num_threads": 0}, {"num_threads": "many"}])
def test_listening_changes_nothing(loaded: dict[str, TextEncoder], records: Any, given: dict[str, Any]) -> None:
    """Not even for counts of threads that no call looks at, as there is nothing to do."""
    assert loaded["bare"].embed([], **given).shape == (0, 32)
    (record,) = records()
    assert (record["texts"], record["tokens"], record["threads"]) == (0, 0, 0)
    with pytest.raises((TypeError, ValueError)):
        loaded["bare"].embed([SHORT], **given)
    with pytest.raises(TypeError):
        loaded["bare"].embed([SHORT, 5])
    assert records() == []  # a call that fails tells the caller


def test_the_same_bits_with_a_listener(calls: dict[str, Any], records: Any) -> None:
    with_listener = calls["embed"][1]()
    logging.getLogger("fastattn").setLevel(logging.INFO)
    assert np.array_equal(with_listener, calls["embed"][1]())


def test_many_threads(loaded: dict[str, TextEncoder], records: Any) -> None:
    threads = [threading.Thread(target=loaded["bare"].embed, args=([SHORT] * n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record["texts"] for record in records()) == list(range(1, 9))


def test_logging_is_not_imported_for_it(root: Path, loaded: dict[str, TextEncoder]) -> None:
    code = f"""
    import sys, numpy, tokenizers
    theirs = "logging" in sys.modules
    import fastattn as fa
    fa.load({str(root / "bare")!r}).embed(["the cat"])
    assert theirs or "logging" not in sys.modules
    import logging
    assert logging.getLogger("fastattn").handlers == [] or theirs
    print("done")
    """
    assert output_of(code) == "done"


def test_nothing_is_printed_unless_a_program_asks(root: Path, loaded: dict[str, TextEncoder]) -> None:
    code = f"""
    import logging, sys, fastattn as fa
    if len(sys.argv) > 1:
        logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
    logging.getLogger("fastattn").setLevel(logging.DEBUG)
    fa.load({str(root / "bare")!r}).embed(["the cat"], num_threads=1)
    """
    quiet, told = run_python(code), run_python(code, "configured")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert told.stderr.startswith("fastattn DEBUG embed: 1 text (0 cut), ") and told.stderr.count("\n") == 1
