# SPDX-License-Identifier: MIT
"""Experts as one product: rows of every form of files, in whatever pieces they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.tiny_bert import save_safetensors

import fastattn as fa
from fastattn.graph.banks import Bank, Form, bank_bias, bank_rows, check_count, form_of, span_of
from fastattn.graph.layouts import Layout
from fastattn.loaders import open_weights
from fastattn.weights import pack_rows

Array = np.ndarray[Any, Any]

E, N, K = 3, 70, 12
RNG = np.random.default_rng(4)
WEIGHT = RNG.standard_normal((E, N, K), dtype=np.float32)
BIAS = RNG.standard_normal((E, N), dtype=np.float32)
ORDER = np.concatenate([np.arange(0, N, 2), np.arange(1, N, 2)])
BACK = np.argsort(ORDER)

FORMS: dict[str, tuple[Form, dict[str, Array]]] = {
    "apart": (Form(("w.{e}.a", "w.{e}.b"), apart=True), {
        **{f"w.{e}.a": WEIGHT[e, : N // 2] for e in range(E)}, **{f"w.{e}.b": WEIGHT[e, N // 2 :] for e in range(E)},
    }),
    "one": (Form(("w",), ("b",)), {"w": WEIGHT, "b": BIAS}),
    "two": (Form(("u", "v"), ("c", "d")), {
        "u": WEIGHT[:, : N // 2], "v": WEIGHT[:, N // 2 :], "c": BIAS[:, : N // 2], "d": BIAS[:, N // 2 :],
    }),
    "transposed": (Form(("w",), layout=Layout("t", transposed=True)), {"w": WEIGHT.swapaxes(1, 2)}),
    "in another order": (Form(("w",), ("b",), layout=Layout("o", order=ORDER)), {
        "w": WEIGHT[:, BACK], "b": BIAS[:, BACK],
    }),
    "both": (Form(("w",), layout=Layout("b", transposed=True, order=ORDER)), {"w": WEIGHT[:, BACK].swapaxes(1, 2)}),
}  # fmt: skip


def bank(*forms: Form, number: int = E) -> Bank:
    return Bank("key", number, N, K, forms, bool(forms[0].biases), "num_experts")


def weights_of(folder: Path, tensors: dict[str, Array], dtype: str = "float32") -> Any:
    path = folder / "model.safetensors"
    save_safetensors(path, {name: np.ascontiguousarray(array.astype(dtype)) for name, array in tensors.items()})
    return open_weights(path)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", FORMS)
def test_rows_of_every_form(tmp_path: Path, name: str, dtype: str) -> None:
    form, tensors = FORMS[name]
    weights, span = weights_of(tmp_path, tensors, dtype), span_of(N)
    expected = np.zeros((E, span, K), np.float32)
    expected[:, :N] = WEIGHT.astype(dtype)
    read, rows = bank_rows(weights, bank(form), form), expected.reshape(-1, K)
    assert span == 96 and bank(form).width == len(rows)
    for step in (len(rows), 32, 64, 160):
        got = [read(start, min(start + step, len(rows))) for start in range(0, len(rows), step)]
        assert np.concatenate(got).tobytes() == rows.tobytes()
    for start, stop in ((0, 1), (69, 71), (70, 96), (80, 90), (95, 97), (60, 250), (287, 288)):
        assert read(start, stop).tobytes() == rows[start:stop].tobytes()
    if form.biases and dtype == "float32":
        bias = bank_bias([weights.as_float32(each) for each in form.biases], bank(form), form).reshape(E, span)
        assert bias[:, :N].tobytes() == BIAS.tobytes() and not bias[:, N:].any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_an_expert_has_the_panels_of_its_layer(tmp_path: Path, dtype: Any) -> None:
    """At a multiple of 64 bytes: what the C side reads is what packing the expert alone gives."""
    form, tensors = FORMS["one"]
    whole = bank(form)
    packed = pack_rows(whole.width, K, bank_rows(weights_of(tmp_path, tensors), whole, form), None, dtype)
    for e in range(E):
        alone = fa.pack_linear(WEIGHT[e], dtype=dtype).arrays()
        for name, part in packed.arrays().items():
            each = part.reshape(E, -1, *part.shape[1:])[e]
            assert each.ctypes.data % (64 if name == "panels" else 4) == 0
            assert each[: len(alone[name])].tobytes() == alone[name].tobytes()


def test_the_form_that_is_stored(tmp_path: Path) -> None:
    apart, one = FORMS["apart"][0], FORMS["one"][0]
    for forms in ((apart, one), (one, apart)):
        assert form_of(bank(*forms), weights_of(tmp_path, FORMS["apart"][1])) is apart
        assert form_of(bank(*forms), weights_of(tmp_path, {"w": WEIGHT})) is one
        assert form_of(bank(*forms), weights_of(tmp_path, {"other": WEIGHT})) is forms[0]
    last = {name: array for name, array in FORMS["apart"][1].items() if name.startswith("w.2")}
    assert form_of(bank(one, apart), weights_of(tmp_path, last)) is apart


def test_counts_that_disagree(tmp_path: Path) -> None:
    form, tensors = FORMS["apart"]
    weights = weights_of(tmp_path, tensors)
    check_count(bank(form), form, weights)
    for number, message in (
        (4, r"missing tensor 'w\.3\.a': num_experts is 4"), (1 << 30, r"missing tensor 'w\.3\.a': num_experts is 107"),
        (2, r"no use for tensor 'w\.2\.a': num_experts is 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_count(bank(form, number=number), form, weights)
    without = weights_of(tmp_path, {name: array for name, array in tensors.items() if not name.startswith("w.1")})
    with pytest.raises(ValueError, match=r"missing tensor 'w\.1\.a': num_experts is 3"):
        check_count(bank(form), form, without)
    one = FORMS["one"][0]
    with pytest.raises(ValueError, match=r"tensor 'w' has shape \[3, 70, 12\], .*\[5, 70, 12\]: num_experts is 5"):
        check_count(bank(one, number=5), one, weights_of(tmp_path, {"w": WEIGHT}))
