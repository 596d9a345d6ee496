# SPDX-License-Identifier: MIT
"""Signals in the middle of one long native call: their handlers run soon, and what they raise ends the call.

Every case is a process of its own. How soon is not asserted to the millisecond: a call that would take minutes and one
that was interrupted cannot be mixed up, on however busy a machine.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from golden import tiny_bert
from support.processes import output_of

from fastattn import _core

needs_openmp = pytest.mark.skipif(_core.openmp_version() == 0, reason="built without OpenMP")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals here are not POSIX")

# ends(call) interrupts a call that would take minutes; MOST is far below that and far above what a busy machine adds.
COMMON = """
import os, signal, sys, threading, time
import numpy as np
import fastattn as fa
from fastattn import _core

MOST = 20
fa.set_num_threads(int(sys.argv[1]))

def soon(number=signal.SIGINT, seconds=0.2):
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), number))
    timer.daemon = True
    timer.start()

def ones(*shape, dtype=np.float32):      # no memory: every row is the same one
    return np.broadcast_to(np.ones(shape[-1], dtype), shape)

def ends(call, number=signal.SIGINT, expected=KeyboardInterrupt):
    soon(number)
    begin = time.monotonic()
    try:
        call()
    except expected as error:
        assert time.monotonic() - begin < MOST, "the handler ran when the call was over"
        assert _core.threads_in_use() == 0
        return error
    raise AssertionError("the call came to its end")

rng = np.random.default_rng(0)
small = rng.standard_normal((1, 4, 300, 64), np.float32)
few = fa.attention(small, small, small)
def still_right():
    assert np.array_equal(fa.attention(small, small, small), few)

long = ones(1, 16, 120_000, 64)
def attention():
    fa.attention(long, long, long)
"""

LONG = {
    "attention": "attention()",
    "causal": "fa.attention(long, long, long, causal=True, softcap=5.0, return_lse=True)",
    "int8 keys": """
k, s = ones(1, 16, 120_000, 64, dtype=np.int8), ones(1, 16, 120_000)
fa.attention(long, k, k, k_scale=s, v_scale=s)""",
    "a few tiles and many keys": """
q, k = ones(1, 1, 200, 1024), ones(1, 1, 30_000_000, 1024)
fa.attention(q, k, k)""",
    "one query and many keys": """
q, k = ones(1, 1, 1, 64), ones(1, 1, 2_000_000_000, 64)
fa.attention(q, k, k)""",
    "probabilities": """
q, k = ones(1, 1, 32, 4096), ones(1, 1, 6_000_000, 4096)
fa.attention(q, k, k, return_weights=True)""",
    "varlen": """
x, cu = ones(240_000, 16, 64), np.array([0, 120_000, 240_000])
fa.attention_varlen(x, x, x, cu, cu)""",
    "linear_attention": """
x = ones(1, 30_000_000, 2, 64)
fa.linear_attention(x, x, x, rule="linear", out=np.empty(x.shape, np.float32))""",
    "one head of linear_attention": """
x = ones(1, 60_000_000, 1, 64)
fa.linear_attention(x, x, x, rule="gated", decay=np.broadcast_to(np.float32(-0.1), (1, 60_000_000, 1)))""",
    "linear": """
x, w = ones(3_000_000, 2048), fa.pack_linear(np.ones((2048, 2048), np.float32))
fa.linear(x, w)""",
    "linear of int8": """
x, w = ones(500_000, 16384), fa.pack_linear(np.ones((512, 16384), np.float32), dtype="int8")
fa.linear(x, w)""",
    "similarity": "fa.similarity(ones(400_000, 512), ones(300_000, 512), top_k=1)",
}


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_ends_one_call(name: str, threads: str) -> None:
    lines = "\n    ".join(LONG[name].strip().splitlines())
    code = f"{COMMON}\ndef call():\n    {lines}\nends(call)\nstill_right()\nprint('ended')"
    assert output_of(code, threads) == "ended"


def run(script: str, threads: str = "2", **env: str) -> None:
    assert output_of(f"{COMMON}\n{script}\nprint('done')", threads, env=dict(env)) == "done"


@needs_openmp
@pytest.mark.parametrize("threads", ["1", "2"])
def test_with_threads_of_openmp(threads: str) -> None:
    run("ends(attention); still_right()", threads, FASTATTN_THREADS="openmp")


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_call_of_a_model(tmp_path: Path, threads: str) -> None:
    """One program of many steps over one group of texts; afterwards the model answers as before."""
    tiny_bert.save_text_folder(tmp_path)
    run(
        f"""
model = fa.load({str(tmp_path)!r})
ids = np.full((2, 8), 5)
before = model(ids).last_hidden_state
many = np.broadcast_to(np.int64(5), (2_000_000, 8))
ends(lambda: model(many))
assert np.array_equal(model(ids).last_hidden_state, before)
""",
        threads,
    )


def test_what_a_handler_raises_is_what_the_call_raises() -> None:
    run("""
class Enough(Exception):
    pass

def enough(number, frame):
    raise Enough(number)

signal.signal(signal.SIGTERM, enough)
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
assert ends(attention, signal.SIGTERM, Enough).args == (signal.SIGTERM,)
assert ends(attention, signal.SIGUSR1, SystemExit).code == 7
assert ends(attention).__traceback__ is not None
still_right()
""")


@pytest.mark.parametrize("team", ["crew", pytest.param("openmp", marks=needs_openmp)])
def test_a_handler_that_raises_nothing_ends_nothing(team: str) -> None:
    """It runs in the middle, in the main thread, as often as signals come; calls that it makes have their bits."""
    run(
        """
middle = rng.standard_normal((1, 4, 5000, 64), np.float32)
expected = fa.attention(middle, middle, middle)
for attempt in range(10):
    inside, nested, seen = True, [], []

    def handler(number, frame):
        seen.append((inside, threading.current_thread() is threading.main_thread()))
        nested.append(np.array_equal(fa.attention(small, small, small), few))

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.06, 0.06)
    out = fa.attention(np.repeat(middle, 2 + 3 * attempt, 0), *[np.repeat(middle, 2 + 3 * attempt, 0)] * 2)
    inside = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert all(np.array_equal(row, expected[0]) for row in out) and all(nested) and all(main for _, main in seen)
    if (True, True) in seen:
        break
assert (True, True) in seen
""",
        FASTATTN_THREADS=team,
    )


def test_calls_of_other_threads_go_on() -> None:
    """They do not look for signals; the main thread's ends, theirs come to their end with their bits."""
    run("""
middle = rng.standard_normal((1, 8, 3000, 64), np.float32)
expected, results, stop = fa.attention(middle, middle, middle), [], threading.Event()

def work():
    while not stop.is_set():
        results.append(np.array_equal(fa.attention(middle, middle, middle), expected))

workers = [threading.Thread(target=work) for _ in range(3)]
[worker.start() for worker in workers]
soon()
try:
    attention()
    raise SystemExit("the call came to its end")
except KeyboardInterrupt:
    stop.set()
count = len(results)
[worker.join() for worker in workers]
assert len(results) >= count + 3 and all(results), results
""")


def test_the_main_thread_waits_while_another_computes() -> None:
    """A signal reaches Python at once; the call of the other thread is not ended by it."""
    run("""
done = []
middle = rng.standard_normal((1, 8, 5000, 64), np.float32)
expected = fa.attention(middle, middle, middle)
worker = threading.Thread(target=lambda: done.append(np.array_equal(fa.attention(middle, middle, middle), expected)))
soon(seconds=0.05)
worker.start()
try:
    while True:
        time.sleep(10)
except KeyboardInterrupt:
    pass
worker.join()
assert done == [True]
""")


@pytest.mark.parametrize("kind", ["KVCache", "ring", "paged"])
def test_caches_stay_as_they_were(kind: str) -> None:
    """attend() is interrupted: lengths, keys and values are those of before, and the step can be made again."""
    run(
        f"kind = {kind!r}"
        """
k = rng.standard_normal((20_000, 1, 64), np.float32)
tail = k[-8:]

def make():
    if kind == "paged":
        cache = fa.PagedKVCache(1, 1, 64, num_pages=1300, page_size=16)
        assert cache.add() == 0
    else:
        cache = fa.KVCache(1, 1, 1, 64, max_length=30_000, window=15_000 if kind == "ring" else None)
    for part in (k[:-8], tail):
        if kind == "paged":
            cache.append(0, [0], part, part, np.array([0, len(part)]))
        else:
            cache.append(0, part.swapaxes(0, 1)[None], part.swapaxes(0, 1)[None])
        if part is not tail:
            cache.advance([0], [len(part)]) if kind == "paged" else cache.advance(len(part))
    return cache

def attend(cache, q):
    if kind == "paged":
        return cache.attend(0, [0], q, np.array([0, len(q)]))
    return cache.attend(0, q.swapaxes(0, 1)[None], causal=True)

first, second = make(), make()
expected = attend(second, tail)
ends(lambda: attend(first, ones(8, 40_000, 64)))
assert np.array_equal(attend(first, tail), expected)
if kind != "paged":
    assert np.array_equal(first.lengths, second.lengths)
"""
    )


def test_a_fork_in_a_handler() -> None:
    """The child has no members: what they had begun is lost, so its call ends with an error; the parent's goes on."""
    run("""
middle = rng.standard_normal((1, 4, 6000, 64), np.float32)
big = np.repeat(middle, 6, 0)
expected, status = fa.attention(middle, middle, middle), []

def handler(number, frame):
    if not status:
        pid = os.fork()
        if pid == 0:
            status.append(None)
            return
        status.append(pid)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
parent = os.getpid()
try:
    out = fa.attention(big, big, big)
    assert os.getpid() == parent or not status
except RuntimeError as error:
    right = os.getpid() != parent and "forked" in str(error)
    fine = np.array_equal(fa.attention(middle, middle, middle), expected)
    os._exit(0 if right and fine else 9)
assert all(np.array_equal(row, expected[0]) for row in out)
if status:
    assert os.waitstatus_to_exitcode(os.waitpid(status[0], 0)[1]) == 0
""")
