# SPDX-License-Identifier: MIT
"""timeout=: calls of a model end soon after it has passed, and the model answers the next one with the same bits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families, tiny_bert
from support.processes import output_of

import fastattn as fa
from fastattn.engine.stop import deadline_of

SLACK = 0.1  # seconds beyond the deadline; 20 ms on a machine that is not busy with something else


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ModernBERT without local layers: it takes sequences of any length."""
    path = later_families.save_folder(tmp_path_factory.mktemp("long") / "model", "modernbert")
    config = json.loads((path / "config.json").read_text())
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return fa.load(folder)


def late(call: Callable[[], Any], timeout: float) -> float:
    """Seconds after the deadline at which ``call`` raised."""
    begin = time.monotonic()
    with pytest.raises(fa.DeadlineExceeded) as caught:
        call()
    assert isinstance(caught.value, TimeoutError)
    return time.monotonic() - begin - timeout


def soonest(call: Callable[[], Any], timeout: float) -> float:
    """Of some attempts: another process may hold the machine during one."""
    found = 1.0
    for _ in range(5):
        found = min(found, late(call, timeout))
        if found <= SLACK:
            break
    return found


IDS = np.arange(60_000)[None] % 50  # some 10 s of one thread


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("timeout", [0.05, 0.2])
def test_in_the_middle_of_one_long_sequence(model: Any, threads: int, timeout: float) -> None:
    before = model(IDS[:, :70]).last_hidden_state
    found = soonest(lambda: model(IDS, num_threads=threads, timeout=timeout), timeout)
    assert -0.001 <= found <= SLACK
    assert model(IDS[:, :70], timeout=60).last_hidden_state.tobytes() == before.tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_in_the_middle_of_many_short_ones(model: Any, threads: int) -> None:
    ids = np.arange(2_000_000).reshape(-1, 10) % 50
    assert soonest(lambda: model(ids, num_threads=threads, timeout=0.3), 0.3) <= SLACK


def test_from_several_threads_at_once(model: Any) -> None:
    """Each call has its own deadline, and one without any comes to its end, with its bits."""
    expected = model(IDS[:, :3000]).last_hidden_state
    found: dict[float, float] = {}
    done: list[bool] = []

    def call(timeout: float) -> None:
        found[timeout] = late(lambda: model(IDS, timeout=timeout, num_threads=1), timeout)

    def whole() -> None:
        done.append(np.array_equal(model(IDS[:, :3000]).last_hidden_state, expected))

    workers = [threading.Thread(target=call, args=(timeout,)) for timeout in (0.05, 0.15, 0.3)]
    workers.append(threading.Thread(target=whole))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert done == [True] and len(found) == 3
    assert max(found.values()) <= 5 * SLACK  # four calls on as many cores as there are


def test_with_states_and_heads(tmp_path: Path) -> None:
    model = fa.load(later_families.save_folder(tmp_path, "nomic", "ForTokenClassification"))
    ids = IDS[:, :6000]
    before = model.run_heads(ids[:, :9])["token_classification"].logits
    assert soonest(lambda: model(ids, output_attentions=True, output_hidden_states=True, timeout=0.03), 0.03) <= SLACK
    assert soonest(lambda: model.run_heads(IDS, timeout=0.05), 0.05) <= SLACK
    assert model.run_heads(ids[:, :9], timeout=9)["token_classification"].logits.tobytes() == before.tobytes()


def test_a_deadline_that_does_not_come(model: Any) -> None:
    expected = model(IDS[:, :50]).last_hidden_state.tobytes()
    for timeout in (None, 60, 60.0, np.float32(60), np.int64(60), Fraction(121, 2), 1e300, 10**400, float("inf")):
        assert model(IDS[:, :50], timeout=timeout).last_hidden_state.tobytes() == expected
    with pytest.raises(fa.DeadlineExceeded):
        model(IDS[:, :50], timeout=1e-9)
    with pytest.raises(fa.DeadlineExceeded):
        model(IDS[:, :50], timeout=5e-324)
    assert model(IDS[:, :50]).last_hidden_state.tobytes() == expected


WRONG: list[tuple[Any, type[Exception], str]] = [
    (0, ValueError, "timeout: got 0, expected seconds above 0"),
    (-1, ValueError, "timeout: got -1, expected seconds above 0"),
    (-(10**400), ValueError, "timeout: got -1e[+]09, expected"),
    (-0.0, ValueError, "timeout: got -0, expected"),
    (float("nan"), ValueError, "timeout: got nan, expected"),
    (float("-inf"), ValueError, "timeout: got -1e[+]09, expected"),
    ("1", TypeError, "timeout: expected seconds or None, got str"),
    (True, TypeError, "timeout: expected seconds or None, got bool"),
    (np.True_, TypeError, "timeout: expected seconds or None, got bool"),
    ([1], TypeError, "timeout: expected seconds or None, got list"),
    (np.ones(1), TypeError, "timeout: expected seconds or None, got ndarray"),
    (1j, TypeError, "timeout: expected seconds or None, got complex"),
]


@pytest.mark.parametrize(("timeout", "kind", "message"), WRONG)
def test_refused(model: Any, timeout: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        deadline_of(timeout)
    with pytest.raises(kind, match=message):
        model([[1, 2]], timeout=timeout)


COMMON = """
import os, signal, sys, threading, time
import numpy as np
import fastattn as fa

model = fa.load(sys.argv[1])
ids = np.arange(60_000)[None] % 50
before = model(ids[:, :70]).last_hidden_state

def soon(seconds):
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()

def ends(expected, timeout, signal_at):
    soon(signal_at)
    begin = time.monotonic()
    try:
        model(ids, timeout=timeout)
    except expected:
        seconds = time.monotonic() - begin
    else:
        raise AssertionError("the call came to its end")
    assert np.array_equal(model(ids[:, :70]).last_hidden_state, before)
    return seconds
"""


@pytest.mark.parametrize("timeout", [30, 0.32])
def test_ctrl_c_goes_before_the_deadline(folder: Path, timeout: float) -> None:
    """Where it came first, however little before."""
    code = f"{COMMON}\nprint(ends(KeyboardInterrupt, {timeout}, 0.3) < 20)"
    assert output_of(code, str(folder)) == "True"


def test_the_deadline_comes_before_ctrl_c(folder: Path) -> None:
    code = f"""{COMMON}
assert ends(fa.DeadlineExceeded, 0.1, 1.2) < 1
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("then Ctrl-C")
"""
    assert output_of(code, str(folder)) == "then Ctrl-C"


def test_ctrl_c_of_the_main_thread_is_nobody_elses(folder: Path) -> None:
    """Calls of other threads have their own deadlines; what the signal's handler raises goes to the main thread."""
    code = f"""{COMMON}
found = []
def work():
    for attempt in range(20):
        try:
            model(ids, timeout=0.01 + attempt % 5 / 100, num_threads=1)
        except fa.DeadlineExceeded:
            found.append("deadline")
        except BaseException as error:
            found.append(repr(error))

workers = [threading.Thread(target=work) for _ in range(2)]
[worker.start() for worker in workers]
for _ in range(3):
    ends(KeyboardInterrupt, 60, 0.1)
[worker.join() for worker in workers]
print(sorted(set(found)), len(found))
"""
    assert output_of(code, str(folder)) == "['deadline'] 40"


def test_a_model_of_bert(tmp_path: Path) -> None:
    """Positions in a table, a mask, an output that is given at once and one that is spread."""
    tiny_bert.save_text_folder(tmp_path)
    model = fa.load(tmp_path)
    ids = np.broadcast_to(np.int64(5), (200_000, 8)).copy()
    mask = np.ones_like(ids)
    mask[::3, 5:] = 0
    expected = model(ids[:3], mask[:3]).last_hidden_state.tobytes()
    assert soonest(lambda: model(ids, mask, timeout=0.3), 0.3) <= SLACK
    assert model(ids[:3], mask[:3]).last_hidden_state.tobytes() == expected
