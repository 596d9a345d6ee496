# SPDX-License-Identifier: MIT
"""Models, tokenizers and packed layers in copies and in other processes; models that are gone when their name is."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import json
import multiprocessing
import os
import pickle
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families, tiny_bert, tiny_families
from support.text_folders import save_task_folder

import fastattn as fa
from fastattn.loaders import WeightFileError
from fastattn.text import TextEncoder, TextTokenizer

# One of each kind of model: with relative positions, repeated layers, convolutions, rotary positions.
CASES = ["bert", "albert", "mpnet", "deberta", "deberta_conv", "modernbert", "nomic_stretched", "new"]
IDS = [[2, 5, 7, 3], [4, 4, 8, 3]]


def outputs(model: Any) -> list[bytes]:
    return [field.tobytes() for field in model(IDS) if field is not None]


def replace(path: Path, arrays: dict[str, Any]) -> None:
    """Another file under the name of one that may be mapped."""
    tiny_bert.save_safetensors(path.with_name("new"), arrays)
    path.with_name("new").replace(path)


def saved(kind: str, folder: Path) -> Path:
    """What a model is loaded from, of each kind."""
    tiny_bert.save_text_folder(folder)
    if kind == "packed":
        return fa.pack(folder, folder.parent / "m.fastattn", "int8")
    if kind == "npz":
        weights = fa.open_weights(folder)
        np.savez(folder / "w.npz", **{name: weights[name] for name in weights})
        return folder / "w.npz"
    if kind == "shards":
        arrays = tiny_bert.tensors("plain")
        names = ("model-1.safetensors", "model-2.safetensors")
        for i, name in enumerate(names):
            tiny_bert.save_safetensors(folder / name, dict(list(arrays.items())[i::2]))
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {tensor: names[i % 2] for i, tensor in enumerate(arrays)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors" if kind == "file" else folder


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "old pickle": lambda thing: pickle.loads(pickle.dumps(thing, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "twice": lambda thing: pickle.loads(pickle.dumps(copy.deepcopy(pickle.loads(pickle.dumps(thing))))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["folder", "file", "shards", "npz", "packed"])
def test_models(tmp_path: Path, kind: str, way: str) -> None:
    pytest.importorskip("tokenizers")
    model = fa.load(saved(kind, tmp_path / "model"), num_threads=1)
    fresh = WAYS[way](model)
    expected, vectors = outputs(model), model.embed(["the cat", "a mat"])
    used = WAYS[way](model)
    for other in (fresh, used):
        assert type(other) is type(model) and other is not model and other.num_threads == 1
        assert outputs(other) == expected and other.embed(["the cat", "a mat"]).tobytes() == vectors.tobytes()
        assert repr(other) == repr(model) and other.notes == model.notes and other.tensors == model.tensors


@pytest.mark.parametrize("case", CASES)
def test_every_family(tmp_path: Path, case: str) -> None:
    module: Any = tiny_families if case in tiny_families.CASES else later_families
    folder = module.save_folder(tmp_path, case, "ForSequenceClassification")
    model = fa.load(folder)
    for path in (folder, fa.pack(folder, tmp_path / "m", "float32")):
        model = fa.load(path)
        expected = outputs(model)
        for way in ("pickle", "deepcopy"):
            assert outputs(WAYS[way](model)) == expected


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_options(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dtype, head and strict go along; so does a relative path, from wherever; and what was set since."""
    folder = save_task_folder(tmp_path / "model", "sequence_classification", ["a", "b"])
    replace(folder / "model.safetensors", {**fa.open_weights(folder), "extra": np.zeros(2, np.float32)})
    monkeypatch.chdir(tmp_path)
    model = fa.load("model", "int8", 1, head="token_classification", strict=False)
    model.num_threads = 2
    monkeypatch.chdir("/")
    other = WAYS[way](model)
    assert other.head_name == "token_classification" and other.num_threads == 2 and "extra" in other.tensors.ignored
    assert outputs(other) == outputs(model)


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy"])
def test_heads_put_beside(tmp_path: Path, way: str) -> None:
    model = fa.load(save_task_folder(tmp_path / "one", "sequence_classification", ["a", "b", "c"]))
    model.add_head("topic", fa.load(save_task_folder(tmp_path / "two", "sequence_classification", ["x", "y"])))
    model.add_head("tags", fa.load(save_task_folder(tmp_path / "three", "token_classification", ["x", "y"])))
    other = WAYS[way](model)
    assert list(other.heads) == list(model.heads)
    expected = {name: out.logits.tobytes() for name, out in model.run_heads(IDS).items()}
    assert {name: out.logits.tobytes() for name, out in other.run_heads(IDS).items()} == expected
    other.add_head("more", fa.load(tmp_path / "two"))
    assert "more" not in model.heads


def test_a_copy_shares_weights_and_nothing_else(tmp_path: Path) -> None:
    model = fa.load(tiny_bert.save_folder(tmp_path / "model", "plain"))
    expected = outputs(model)
    shutil.rmtree(tmp_path / "model")  # a copy needs no files
    other: Any = copy.deepcopy(model)
    assert outputs(other) == expected and other._blocks is not model._blocks
    assert other.graph is not model.graph and other.graph.tables is model.graph.tables
    steps = zip(other.graph.trace.nodes, model.graph.trace.nodes, strict=True)
    assert all(mine.options.get("packed") is theirs.options.get("packed") for mine, theirs in steps)
    other.num_threads, model.num_threads = 3, 1
    assert other.num_threads == 3
    assert copy.deepcopy([model, model])[0].num_threads == 1
    both = copy.deepcopy([model, model])
    assert both[0] is both[1]


def embed(model: TextEncoder, texts: list[str]) -> bytes:
    return model.embed(texts).tobytes()


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_spawned_processes(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("tokenizers")
    model = fa.load(saved(kind, tmp_path / "model"), num_threads=1)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        fresh = pool.submit(embed, model, ["the cat"])
        expected = embed(model, ["the cat"])
        assert fresh.result(60) == expected
        assert pool.submit(embed, model, ["the cat"]).result(60) == expected


def test_joblib(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    model = fa.load(saved("packed", tmp_path / "model"))
    joblib.dump(model, tmp_path / "dumped")
    assert outputs(joblib.load(tmp_path / "dumped")) == outputs(model)


def test_files_that_are_gone(tmp_path: Path) -> None:
    for kind in ("folder", "packed"):
        path = saved(kind, tmp_path / kind / "model")
        data = pickle.dumps(fa.load(path))
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError, match=r"no such file or folder .*\(a pickled model is loaded again from"):
            pickle.loads(data)
        (tmp_path / "elsewhere").rename(path)
        assert pickle.loads(data).hidden_size == 32


@pytest.mark.parametrize("kind", ["folder", "file", "shards", "npz", "packed"])
def test_other_weights_of_the_same_shapes(tmp_path: Path, kind: str) -> None:
    path = saved(kind, tmp_path / "model")
    model = fa.load(path)
    data = pickle.dumps(model)
    assert outputs(pickle.loads(data)) == outputs(model)
    other = tmp_path / "other"
    again = saved(kind, other / "model")
    arrays = {name: array + np.float32(1e-3) for name, array in tiny_bert.tensors("plain").items()}
    if kind == "shards":
        for name in ("model-1.safetensors", "model-2.safetensors"):
            replace(other / "model" / name, {key: arrays[key] for key in fa.open_weights(other / "model" / name)})
    elif kind == "npz":
        np.savez(again, **arrays)
    else:
        replace(other / "model" / "model.safetensors", arrays)
        if kind == "packed":
            fa.pack(other / "model", again, "int8")
    shutil.rmtree(tmp_path / "model")
    if kind == "packed":
        shutil.move(again, path)
    else:
        shutil.move(other / "model", tmp_path / "model")
    fa.load(path)
    with pytest.raises(ValueError, match="these are not the weights and the config.json that the pickled model was"):
        pickle.loads(data)


def test_another_config(tmp_path: Path) -> None:
    folder = save_task_folder(tmp_path / "model", "sequence_classification", ["a", "b"])
    data = pickle.dumps(fa.load(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "c", "1": "d"}}))
    with pytest.raises(ValueError, match="these are not the weights and the config"):
        pickle.loads(data)


def test_what_cannot_travel_says_so(tmp_path: Path) -> None:
    model: Any = fa.load(tiny_bert.save_folder(tmp_path / "model", "plain"))
    other: Any = fa.load(save_task_folder(tmp_path / "head", "token_classification", ["a", "b"]))
    other.origin = None
    with pytest.raises(TypeError, match="BertModel is pickled as the path .* load the model in the process"):
        pickle.dumps(other)
    assert outputs(copy.deepcopy(other)) == outputs(other)
    model.add_head("tags", other)
    with pytest.raises(TypeError, match="the model of its head 'tags' was not loaded by"):
        pickle.dumps(model)
    cache = fa.KVCache(layers=1, batch=1, kv_heads=1, head_dim=8, max_length=8)
    with pytest.raises(TypeError, match="KVCache is the memory of running sequences .* run their tokens again"):
        pickle.dumps(cache)
    paged = fa.PagedKVCache(layers=1, kv_heads=1, head_dim=8, num_pages=2, page_size=16)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"PagedKVCache .* fork\(seq_id\) copies a sequence"):
            way(paged)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_copies_of_a_cache(way: Callable[[Any], Any]) -> None:
    cache = fa.KVCache(layers=1, batch=1, kv_heads=1, head_dim=8, max_length=8)
    rows = np.ones((1, 1, 2, 8), np.float32)
    cache.append(0, rows, rows)
    cache.advance(2)
    other = way(cache)
    other.append(0, rows, rows)
    other.advance(2)
    assert cache.lengths.tolist() == [2] and other.lengths.tolist() == [4]


def test_weight_files(tmp_path: Path) -> None:
    for kind in ("folder", "file", "npz", "packed", "shards"):
        path = saved(kind, tmp_path / kind / "model")
        weights = fa.open_weights(path)
        again = pickle.loads(pickle.dumps(weights))
        assert type(again) is type(weights) and list(again) == list(weights)
        assert again.fingerprint() == weights.fingerprint()
        name = next(name for name in weights if weights.dtype(name) == "F32")
        assert again[name].tobytes() == weights[name].tobytes()
    data = pickle.dumps(fa.open_weights(tmp_path / "file/model/model.safetensors"))
    replace(tmp_path / "file/model/model.safetensors", {"a": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="this is not the file that was pickled"):
        pickle.loads(data)
    files = fa.load(tmp_path / "packed/m.fastattn").files
    assert pickle.loads(pickle.dumps(files)).read_json("config.json") == files.read_json("config.json")
    (tmp_path / "packed/m.fastattn").unlink()
    (tmp_path / "packed/m.fastattn").write_bytes(b"x" * 100)
    with pytest.raises(WeightFileError):
        pickle.loads(pickle.dumps(files))


def test_tokenizers_and_pipelines(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    for kind in ("folder", "packed"):
        model: Any = fa.load(saved(kind, tmp_path / kind / "model"))
        tokenizer = model.pipeline.tokenizer
        expected = [part.tolist() for part in tokenizer.encode("the cat sat")]
        for way in ("pickle", "deepcopy", "copy"):
            other = WAYS[way](tokenizer)
            assert isinstance(other, TextTokenizer) and other.max_length == tokenizer.max_length
            assert [part.tolist() for part in other.encode("the cat sat")] == expected
        pipeline = pickle.loads(pickle.dumps(model.pipeline))
        assert pipeline.embed(["the cat"]).tobytes() == model.embed(["the cat"]).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int8", "bfloat16"])
def test_packed_layers(dtype: str) -> None:
    layer = fa.pack_linear(np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(3, np.float32), dtype)
    x = np.float32([[1, 2, 3, 4]])
    for way in WAYS.values():
        other = way(layer)
        assert other.dtype == dtype and fa.linear(x, other).tobytes() == fa.linear(x, layer).tobytes()


# ---- memory, and what is made once ---------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("case", CASES)
def test_models_hold_no_cycles(tmp_path: Path, case: str, no_collector: None) -> None:
    """All of a model goes with its last name, without the collector: its arrays, and every object of ours."""
    module: Any = tiny_families if case in tiny_families.CASES else later_families
    folder = module.save_folder(tmp_path, case, "ForSequenceClassification")
    for path in (folder, fa.pack(folder, tmp_path / "m", "int8")):
        gc.collect()
        model = fa.load(path)
        model(*module.batch(case)[:2])
        gone = weakref.ref(model)
        del model
        assert gone() is None
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        left = {type(thing).__name__ for thing in gc.garbage
                if type(thing).__module__.startswith("fastattn") or isinstance(thing, np.ndarray)}  # fmt: skip
        gc.garbage.clear()
        assert not left


def test_models_with_text_hold_no_cycles(tmp_path: Path, no_collector: None) -> None:
    pytest.importorskip("tokenizers")
    folder = save_task_folder(tmp_path / "model", "sequence_classification", ["yes"])
    model = fa.load(folder)
    model.embed(["the cat"])
    model.classify(["the cat"])
    model.rerank("the cat", ["a mat", "the cat"])
    model.tokens(["a"], vectors=True)
    assert model.embedding_size() == 32
    twin, tokenizer = copy.deepcopy(model), model.pipeline.tokenizer  # type: ignore[attr-defined]
    gone, made = weakref.ref(model), weakref.ref(tokenizer)
    del tokenizer
    pipeline = model.pipeline
    del model
    assert gone() is not None and pipeline.embed(["the cat"]).shape == (1, 32)  # whoever has the pipeline has the model
    del pipeline
    assert gone() is None and made() is None
    assert twin.embed(["the cat"]).shape == (1, 32)
    assert fa.load(folder).pipeline.tokenizer.max_length == 40  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        fa.load(folder).embed("one text")


def test_the_tokenizer_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers")
    model = fa.load(saved("folder", tmp_path / "model"))
    made: list[int] = []
    original = TextTokenizer.__init__

    def counted(self: TextTokenizer, *arguments: Any, **options: Any) -> None:
        made.append(1)
        original(self, *arguments, **options)

    monkeypatch.setattr(TextTokenizer, "__init__", counted)
    gate, results = threading.Barrier(50), []

    def work() -> None:
        gate.wait()
        results.append(model.embed(["the cat"]).tobytes())

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(results) == 50 and len(set(results)) == 1


def test_what_fails_is_tried_again(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    folder = saved("folder", tmp_path / "model")
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    model = fa.load(folder)
    with pytest.raises(FileNotFoundError):
        model.embed(["a"])
    (folder / "elsewhere").rename(folder / "tokenizer.json")
    assert model.embed(["a"]).shape == (1, 32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
def test_a_fork_while_another_thread_makes_the_tokenizer(tmp_path: Path) -> None:
    """The lock of the parent's thread is not waited for in the child."""
    model: Any = fa.load(saved("folder", tmp_path / "model"))
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        inside.set()
        go_on.wait(30)
        return 1

    thread = threading.Thread(target=model.keep, args=("thing", slow))
    thread.start()
    inside.wait(30)
    process = multiprocessing.get_context("fork").Process(target=model.keep, args=("thing", lambda: 2))
    process.start()
    process.join(20)
    go_on.set()
    thread.join()
    code = process.exitcode
    if code is None:
        process.kill()
    assert code == 0 and model.keep("thing", lambda: 3) == 1
