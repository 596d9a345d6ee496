# SPDX-License-Identifier: MIT
"""torch, ONNX Runtime and CTranslate2 in the same process.

Either import order, calls in turn and at once, both teams, forks, ends of the process. (Daemon threads inside calls of
torch end it by abort(), with us or without.) Every case runs in an interpreter of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest
from test_beside import COMMON, TEAMS, run

from fastattn.bench.child import convert
from fastattn.bench.random_model import RANDOM, write_folder

pytestmark = pytest.mark.parity

# What each does in a call of its own: the same result again and again, by its threads.
OTHERS = {
    "torch": """
        import torch
        torch.set_num_threads(2)
        def make():
            a = torch.ones((600, 600))
            return lambda: float((a @ a).sum()) == 600.0**3
    """,
    "onnxruntime": """
        import onnx, onnxruntime
        from onnx import TensorProto, helper
        def make():
            shape = (600, 600)
            node = helper.make_node("MatMul", ["a", "a"], ["b"])
            a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab")
            model = helper.make_model(helper.make_graph([node], "g", [a], [b]), ir_version=9,
                                      opset_imports=[helper.make_opsetid("", 17)])
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 2
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
            ones = np.ones(shape, np.float32)
            return lambda: bool((session.run(None, {"a": ones})[0] == 600).all())
    """,
    "ctranslate2": """
        import ctranslate2
        def make():
            encoder = ctranslate2.Encoder(sys.argv[1], device="cpu", intra_threads=2)
            ids = ctranslate2.StorageView.from_array(np.ones((4, 30), np.int32))
            lengths = ctranslate2.StorageView.from_array(np.full(4, 30, np.int32))
            def work():
                states = np.array(encoder.forward_batch(ids, lengths).last_hidden_state)
                return bool(np.isfinite(states).all()) and states.shape == (4, 30, 64)
            return work
    """,
}

TOGETHER = """
ours = (check, lambda: check(3), lambda: check(1))
theirs = make()
if sys.argv[2] == "fastattn":   # whose threads are the first
    check()
for _ in range(20):             # in turn
    assert theirs()
    check()
failed = []
def call(work):
    try:
        for _ in range(20):
            assert work() in (True, None)
    except BaseException as error:
        failed.append(error)
        raise
threads = [threading.Thread(target=call, args=(work,)) for work in (*ours, theirs, make())]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
assert _core.threads_in_use() == 0
for _ in range(5):              # ours in children; what the others promise there is their affair
    wait_for(fork(lambda: (check(), wait_for(fork(check)))))
    assert theirs()
    check()
def forever():
    while True:
        check()
for _ in range(2):              # inside calls of ours while the process ends
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.03)
if sys.argv[3] == "os._exit":
    os._exit(0)
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of a small encoder in CTranslate2's form, written in a process of its own."""
    pytest.importorskip("ctranslate2")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    write_folder(folder, {**RANDOM["bert-base"], **sizes, "intermediate_size": 128})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]
    (folder / "vocab.txt").write_text("\n".join(words))
    written = convert("ctranslate2", folder)
    assert written is not None
    with written as path:
        yield path


@pytest.mark.parametrize("first", ["fastattn", "other"])
@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("name", OTHERS)
def test_beside(name: str, team: str, first: str, request: pytest.FixtureRequest) -> None:
    for module in ("onnx", name) if name == "onnxruntime" else (name,):
        pytest.importorskip(module)
    folder = request.getfixturevalue("converted") if name == "ctranslate2" else ""
    end = "of the script" if (team == "crew") == (first == "fastattn") else "os._exit"
    other = textwrap.dedent(OTHERS[name])
    begin = "import os, sys\nimport numpy as np\n"
    run(
        TOGETHER,
        folder,
        first,
        end,
        team=team,
        common=begin + (COMMON + other if first == "fastattn" else other + COMMON),
    )
