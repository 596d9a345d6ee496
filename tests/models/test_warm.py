# SPDX-License-Identifier: MIT
"""``model.warm()``: what the first call would have to do beside its work is done, whatever the model is for."""

from __future__ import annotations

import mmap
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from golden import later_families, tiny_bert, tiny_decoders, tiny_families
from support.processes import output_of
from support.text_folders import save_task_folder, write_json

import fastattn as fa
from fastattn.engine import stop
from fastattn.graph.source import touch
from fastattn.text import TextEncoder

pytest.importorskip("tokenizers")

# kind of the folder -> the call that is to find everything there
CALLS = {
    "bare": "model.embed(['the cat'])",
    "sequence_classification": "model.classify(['the cat'])",
    "token_classification": "model.tokens(['the cat'])",
    "question_answering": "model.answer('the cat', 'a mat')",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="module")
def folders(root: Path) -> dict[str, Path]:
    found = {"bare": tiny_bert.save_text_folder(root / "bare")}
    for kind, labels in (
        ("sequence_classification", ["no", "yes", "maybe"]), ("token_classification", ["O", "B-X"]),
        ("question_answering", None),
    ):  # fmt: skip
        found[kind] = save_task_folder(root / kind, kind, *([labels] if labels else []))
    return found


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_first_call_makes_nothing_more(kind: str, packed: bool, folders: dict[str, Path], root: Path) -> None:
    """No module is imported, nothing kept is made, no program built, no scratch memory taken."""
    path = folders[kind]
    if packed:
        path = fa.pack(path, root / f"{kind}.fastattn")
    code = f"""
    import sys, numpy as np, fastattn as fa
    model = fa.load({str(path)!r})
    assert model.warm() is None
    modules, kept, scratch = set(sys.modules), dict(model._kept._made), model._blocks.nbytes
    {CALLS[kind]}
    assert set(sys.modules) == modules, set(sys.modules) - modules
    assert model._kept._made == kept and kept["tokenizer"] is model.pipeline.tokenizer
    assert model._blocks.nbytes == scratch and len(model._blocks) == 1
    print("ready")
    """
    assert output_of(code) == "ready"


@pytest.mark.parametrize("kind", CALLS)
def test_it_changes_no_result_and_may_be_called_again(kind: str, folders: dict[str, Path]) -> None:
    cold, model = fa.load(folders[kind]), fa.load(folders[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.max_seq_length = 5  # the text of warm() is not cut, whatever is set
        for _ in range(2):
            model.warm()
    model.chosen_length = None
    results = [eval(CALLS[kind], {"model": each}) for each in (cold, model)]
    first, second = (each.tobytes() if isinstance(each, np.ndarray) else each for each in results)
    assert len(first) and repr(first) == repr(second)
    assert model.chosen_length is None and model.num_threads is None


def test_a_prompt_longer_than_the_model_is_no_matter(root: Path) -> None:
    folder = tiny_bert.save_text_folder(root / "prompted")
    settings = {"prompts": {"query": "the cat sat on the mat. " * 30}, "default_prompt_name": "query"}
    write_json(folder / "config_sentence_transformers.json", settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.load(folder).warm()


def test_many_threads_at_once(folders: dict[str, Path]) -> None:
    model, failed = fa.load(folders["bare"]), []
    tokenizers, start = set(), threading.Barrier(16)

    def work() -> None:
        try:
            start.wait()
            model.warm()
            tokenizers.add(id(model.pipeline.tokenizer))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and len(tokenizers) == 1


def without_tokenizer(folder: Path, target: Path) -> Path:
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((folder / name).read_bytes())
    return target


@pytest.mark.parametrize("kind", CALLS)
def test_without_a_tokenizer(kind: str, folders: dict[str, Path], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model for ids alone, the weights are warmed; ``tokenizers`` need not be installed."""
    folder = without_tokenizer(folders[kind], root / f"mute {kind}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    model = fa.load(folder)
    model.warm()
    assert len(model._blocks) == 1
    with pytest.raises(ImportError, match="tokenizers"):
        fa.load(folders[kind]).warm()


@pytest.mark.parametrize("case", [*tiny_families.CASES, *later_families.CASES])
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_every_family(case: str, head: str, tmp_path: Path) -> None:
    family = tiny_families if case in tiny_families.CASES else later_families
    model = fa.load(family.save_folder(tmp_path / "model", case, head))
    model.warm()
    assert len(model.graph.tables) >= 1 and len(model._blocks) == 1


@pytest.fixture(scope="module")
def timed(folders: dict[str, Path], root: Path) -> dict[str, Path]:
    """Encoders with a text side, one for token ids alone, one with two heads beside it, and a decoder."""
    return {
        **folders,
        "ids": later_families.save_folder(root / "ids", "modernbert"),
        "decoder": tiny_decoders.make(root / "decoder", "mistral"),
    }


KINDS = [*CALLS, "ids", "decoder", "heads"]


def fresh(timed: dict[str, Path], kind: str) -> Any:
    model: Any = fa.load(timed["sequence_classification" if kind == "heads" else kind])
    if kind == "heads":
        model.add_head("other", fa.load(timed["token_classification"]))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_may_pass_at_every_look(kind: str, timed: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is an hour ahead from a look on: warm() ends there, and once more is done as if nothing had been."""
    clock, looks, turn, expected = time.monotonic_ns, 0, 0, fresh(timed, kind)([[2, 5, 7, 3]])[0].tobytes()

    def look() -> int:
        nonlocal looks
        looks += 1
        return clock() + (3600 * 10**9 if looks > turn else 0)

    monkeypatch.setattr(stop, "time", SimpleNamespace(monotonic_ns=look))
    for turn in range(1, 100):
        model, looks = fresh(timed, kind), 0
        try:
            model.warm(timeout=60)
            break
        except fa.DeadlineExceeded as error:
            assert isinstance(error, TimeoutError) and turn < looks <= turn + 5
        model.warm()
        assert model([[2, 5, 7, 3]])[0].tobytes() == expected
    # when it begins, for each table, for a run, for two kinds of groups, and for what is above token ids
    assert 1 + len(model.graph.tables) + 1 + 2 + 2 * (kind != "ids") <= turn < 40
    assert model([[2, 5, 7, 3]])[0].tobytes() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_that_is_over_at_once_or_never(kind: str, timed: dict[str, Path]) -> None:
    model = fresh(timed, kind)
    with pytest.raises(fa.DeadlineExceeded, match="timeout"):
        model.warm(timeout=1e-9)
    for timeout in (None, 3600, 1e300):
        assert model.warm(timeout=timeout) is None
    for wrong, error in ((0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout: "):
            model.warm(timeout=wrong)
    with pytest.raises(TypeError):
        model.warm(3600)


def test_a_tokenizer_that_is_damaged_is_said(folders: dict[str, Path], root: Path) -> None:
    folder = without_tokenizer(folders["bare"], root / "damaged")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json"):
        fa.load(folder).warm()


def test_heads_that_were_added_are_ready_too(folders: dict[str, Path]) -> None:
    model = fa.load(folders["sequence_classification"])
    model.add_head("other", fa.load(folders["token_classification"]))
    model.warm()
    kept, scratch = set(model._kept.names()), model._blocks.nbytes
    results = model.run_heads([[2, 5, 7, 3]])
    assert list(results) == list(model.heads) and len(results) == 2
    assert set(model._kept.names()) == kept and model._blocks.nbytes == scratch


@pytest.mark.parametrize("packed", [False, True])
def test_tables_and_scratch_memory_are_there(packed: bool, folders: dict[str, Path], root: Path) -> None:
    """Of a whole group: of the longest texts, of many short ones, for all that the model was warmed for."""
    path = folders["bare"]
    model: TextEncoder = fa.load(fa.pack(path, root / "tables.fastattn") if packed else path)
    rows = model.vocab_size + model.max_positions + model.type_vocab_size
    assert sum(table.size for table in model.graph.tables) == rows * model.hidden_size
    model.warm()
    scratch = model._blocks.nbytes
    tokens = 4 * sum(model.program(["hidden"]).columns.values()) * model.GROUP_TOKENS
    most = 6 if packed else 4  # packed is int8, whose attention has rounded keys and values besides
    assert len(model._blocks) == 1 and tokens < scratch < most * tokens
    fitting = model.GROUP_TOKENS // model.max_positions
    for shape in ((1, model.max_positions), (fitting, model.max_positions), (model.GROUP_TOKENS, 1), (300, 3)):
        model(np.ones(shape, np.int64))
        assert len(model._blocks) == 1 and model._blocks.nbytes == scratch
    model.embed(["the cat sat on the mat " * 20] * 40 + ["the"] * 600)
    assert len(model._blocks) == 1 and model._blocks.nbytes == scratch


def resident(address: int) -> int:
    """Bytes of the mapping at ``address`` that this process has in its page tables."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, _ = line.partition("-")
        if line[:1] in "0123456789abcdef" and not line.startswith("Rss"):
            found = int(first, 16) <= address < int(line.partition("-")[2].split()[0], 16)
        elif found and line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no such mapping")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the kernel tells it there")
def test_touching_brings_every_page(tmp_path: Path) -> None:
    size = 3 << 20
    (tmp_path / "data").write_bytes(bytes(size))
    with open(tmp_path / "data", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        array = np.frombuffer(mapping, np.float32).reshape(-1, 64)
        before = resident(array.ctypes.data)
        touch(array)
        assert before < size // 2 and resident(array.ctypes.data) >= size
        touch(array[:0])
        del array
