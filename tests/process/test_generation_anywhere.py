# SPDX-License-Identifier: MIT
"""One text of one prompt, options and seed: on any instruction set, threads, in copies, forks and beside others."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from golden import tiny_decoders
from support.processes import TESTS, output_of
from tokenizers import Tokenizer, models, pre_tokenizers

import fastattn as fa
from fastattn import _core, _testing
from fastattn.engine import requests

PROMPTS: list[list[int]] = [[3, 5, 8], list(range(60)), [99], [7] * 33]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "top_p": 0.9, "seed": 5},
    {"temperature": 2.0, "top_k": 7, "min_p": 0.01, "seed": 2**64 - 1, "repetition_penalty": 1.3, "n": 2},
    {
        "top_k": 0,
        "temperature": 1.0,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.3,
        "logit_bias": {4: 3.5},
        "n": 3,
    },
]
KV = ("float32", "float16", "bfloat16", "int8")


def texts(model: Any, kv: str = "float32", *, together: bool = True, **more: Any) -> str:
    """All of what is generated, as a text in which every bit of it shows."""
    found = []
    for options in OPTIONS:
        given = {"max_new_tokens": 8, "ignore_eos": True, "logprobs": 3, "kv_dtype": kv, **options, **more}
        results = model.generate(PROMPTS, **given) if together else [
            one for prompt in PROMPTS for one in model.generate(prompt, **given)
        ]  # fmt: skip
        found += [(one.token_ids, one.text, one.logprobs, one.score) for one in results]
    scores = [(one.total, one.logprobs) for one in model.score(PROMPTS, num_threads=more.get("num_threads"))]
    return repr((found, scores))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoders.make(tmp_path_factory.mktemp("anywhere") / "m", "llama")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kv", KV)
def test_one_result(folder: Path, dtype: Any, kv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fa.load(folder, dtype)
    expected = texts(model, kv)
    assert texts(model, kv, together=False) == expected, "alone"
    for n in (1, 2, 3, 4):
        assert texts(model, kv, num_threads=n) == expected, f"{n} threads"
    for isa in _testing.isas():
        with _testing.use_isa(isa):
            assert texts(fa.load(folder, dtype), kv) == expected, isa
    for name, other in (("copy", copy.copy(model)), ("deepcopy", copy.deepcopy(model)),
                        ("pickle", pickle.loads(pickle.dumps(model)))):  # fmt: skip
        assert texts(other, kv) == expected, name
    for rows, running in ((1, 2), (5, 64), (37, 3)):
        monkeypatch.setattr(requests, "STEP_ROWS", rows)
        monkeypatch.setattr(requests, "MOST_RUNNING", running)
        assert texts(model, kv) == expected, f"steps of {rows}"


def test_types_differ(folder: Path) -> None:
    """What the test above compares does depend on how weights, keys and values are kept."""
    model = fa.load(folder)
    assert len({texts(model, kv) for kv in KV} | {texts(fa.load(folder, "int8"))}) == 5


def test_threads_at_once(folder: Path) -> None:
    model = fa.load(folder)
    expected, found = texts(model), []
    workers = [threading.Thread(target=lambda: found.append(texts(model))) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 5


SCRIPT = """
import sys, os
sys.path[:0] = sys.argv[1:3]
import fastattn as fa
from test_generation_anywhere import texts
model = fa.load(sys.argv[3], "bfloat16")
"""


def script(folder: Path, code: str, **env: str) -> str:
    return output_of(SCRIPT + code, TESTS, f"{TESTS}/process", str(folder), env=env)


@pytest.mark.parametrize("team", ["crew", *(["openmp"] if _core.openmp_version() else [])])
@pytest.mark.parametrize("isa", _testing.isas())
def test_other_processes(folder: Path, isa: str, team: str) -> None:
    expected = texts(fa.load(folder, "bfloat16"))
    assert script(folder, "print(texts(model))", FASTATTN_ISA=isa, FASTATTN_THREADS=team) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_after_a_fork(folder: Path) -> None:
    """In parent and child."""
    code = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
expected = texts(model, num_threads=2)
whole = model.generate([3, 5, 8], max_new_tokens=20, ignore_eos=True)[0]
pid = os.fork()
again = model.generate([3, 5, 8], max_new_tokens=20, ignore_eos=True)[0]
same = texts(model, num_threads=2) == expected and again == whole
if pid == 0:
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and same
print("same")
"""
    assert script(folder, code) == "same"


# ---- Ctrl-C, cancel() and time ---------------------------------------------------------------------------------------

# A model whose prompts take seconds: 6 layers of 512, prompts of 8192 tokens.
SLOW = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 8, "max_position_embeddings": 16384,
}  # fmt: skip


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_decoders.make(tmp_path_factory.mktemp("slow") / "m", "llama", **SLOW)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(101)}, "t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    return folder


INTERRUPTED = """
import os, signal, threading, time
prompt = [i % 100 for i in range(12_000)]
short = model.generate(prompt[:40], max_new_tokens=4, ignore_eos=True, logprobs=1)

def ends(call):
    raised_at = []
    def handler(number, frame):
        raised_at.append(time.monotonic())
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, handler)
    sent = []
    def send():
        time.sleep(0.2)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=send, daemon=True).start()
    try:
        call()
    except KeyboardInterrupt:
        took = time.monotonic() - sent[0]
    else:
        raise AssertionError("the call came to its end")
    assert model.generate(prompt[:40], max_new_tokens=4, ignore_eos=True, logprobs=1) == short
    return took
"""

CALLS = {
    "generate": "model.generate(prompt, max_new_tokens=4)",
    "several": "model.generate([prompt, prompt], max_new_tokens=4, timeout=1e6)",
    "tokens": "model.generate(prompt[:3], max_new_tokens=16_000, ignore_eos=True)",
    "a stream": "list(model.stream(prompt, max_new_tokens=4))",
    "pieces of a stream": "list(model.stream([3], max_new_tokens=16_000, ignore_eos=True))",
    "score": "model.score(prompt)",
}


@pytest.mark.skipif(os.name != "posix", reason="signals here are not POSIX")
@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c(slow: Path, name: str) -> None:
    """Soon, wherever the call is; afterwards the model gives the bits of before. Best of two: the machine is busy."""
    lines = f"def call():\n    {CALLS[name]}\nprint(min(ends(call) for _ in range(2)))"
    assert float(script(slow, INTERRUPTED + lines)) < 0.25


def test_cancel_ends_a_step(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another thread, in the middle of a long prompt: without waiting for the step, and without a deadline too."""
    model: Any = fa.load(slow)
    prompt = [i % 100 for i in range(12_000)]
    monkeypatch.setattr(requests, "STEP_ROWS", len(prompt))  # one step, of seconds

    def seconds(**options: Any) -> float:
        stream, asked = model.stream(prompt, max_new_tokens=4, **options), []

        def cancel() -> None:
            asked.append(time.monotonic())
            stream.cancel()

        threading.Timer(0.2, cancel).start()
        assert list(stream) == []
        took = time.monotonic() - asked[0]
        assert (stream.result().finish_reason, stream.result().token_ids) == ("cancelled", ())
        return took

    for options in ({}, {"timeout": 1000.0}):
        assert min(seconds(**options) for _ in range(2)) < 0.2
    begin = time.monotonic()
    assert model.generate(prompt, max_new_tokens=4, timeout=0.2)[0].finish_reason == "timeout"
    assert time.monotonic() - begin < 2
    with pytest.raises(fa.DeadlineExceeded):
        model.score(prompt, timeout=0.2)


def test_two_threads_on_one_stream(slow: Path) -> None:
    """Each piece goes to one of them; together they have what one alone has."""
    model: Any = fa.load(slow)
    expected = model.generate([3, 4], max_new_tokens=60, ignore_eos=True)[0]
    stream, found = model.stream([3, 4], max_new_tokens=60, ignore_eos=True), []
    workers = [threading.Thread(target=lambda: found.extend(stream)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert stream.result() == expected and len("".join(found)) == len(expected.text)


@pytest.mark.skipif(os.name != "posix", reason="signals here are not POSIX")
def test_a_handler_that_asks_the_stream(slow: Path) -> None:
    """In the middle of its own step: an error, no deadlock; the stream goes on."""
    code = """
import signal
prompt = [i % 100 for i in range(900)]
stream = model.stream(prompt, max_new_tokens=3, ignore_eos=True)
seen = []
def handler(number, frame):
    try:
        next(stream)
    except ValueError as error:
        seen.append(str(error))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.02)
assert "".join(stream) == model.generate(prompt, max_new_tokens=3, ignore_eos=True)[0].text
assert seen and "by the same thread" in seen[0], seen
print("fine")
"""
    assert script(slow, code) == "fine"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_memory_comes_back(folder: Path, slow: Path) -> None:
    """Of calls, of streams that are dropped half-way, of errors, and of interrupted calls."""
    code = """
import gc
stream_model = fa.load(sys.argv[4])
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
def once(i):
    model.generate([3, i % 100], max_new_tokens=8, temperature=1.0, seed=i, logprobs=5)
    next(stream_model.stream([3, 4], max_new_tokens=4, ignore_eos=True))
    try:
        model.generate([3], max_new_tokens=2, logit_bias={token: float("-inf") for token in range(101)})
    except ValueError:
        pass
    assert model.generate([3] * 50, timeout=1e-9)[0].finish_reason == "timeout"
for i in range(40):
    once(i)
before = resident()
for i in range(200):
    once(i)
print(resident() - before)
"""
    grown = output_of(SCRIPT + code, TESTS, f"{TESTS}/process", str(folder), str(slow))
    assert float(grown) < 3
