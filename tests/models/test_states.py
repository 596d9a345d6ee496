# SPDX-License-Identifier: MIT
"""output_hidden_states and output_attentions: values of NumPy models in double precision, and the bits of operators."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden import later_families, numpy_families, tiny_families

import fastattn as fa
from fastattn import ops
from fastattn.attention import disentangled_bias, distance_columns

Array = np.ndarray[Any, Any]
ASKED: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True}
KIN = [case for case in tiny_families.CASES if not case.endswith("long")]
LATER = list(later_families.CASES)
LAYERS = {"distilbert": "n_layers", "nomic_bert": "n_layer"}  # where the key is not num_hidden_layers


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The tiny model of a case under a head, built once."""
    models: dict[tuple[str, str], Any] = {}

    def model(case: str, head: str = "Model") -> Any:
        if (case, head) not in models:
            families: Any = later_families if case in LATER else tiny_families
            models[case, head] = fa.load(families.save_folder(tmp_path_factory.mktemp(case), case, head))
        return models[case, head]

    return model


def batch(case: str) -> tuple[Array, ...]:
    """Ids, a mask with holes and padding on both sides, and types, where a family has them."""
    families: Any = later_families if case in LATER else tiny_families
    ids, mask, types = families.batch(case)
    typeless = families.CASES[case]["model_type"] in ("distilbert", "mpnet", "modernbert")
    return (ids, mask) if typeless else (ids, mask, types)


def exact_states(case: str, layers: int) -> Array:
    """What the first layers of a model give: that of a model of so many."""
    ids, mask, types = (later_families if case in LATER else tiny_families).batch(case)  # type: ignore[attr-defined]
    if case in LATER:
        key = LAYERS.get(later_families.CASES[case]["model_type"], "num_hidden_layers")
        fields: dict[str, Array] = later_families.run(case, "Model", ids, mask, types, **{key: layers})[0]
        return fields["last_hidden_state"]
    config, arrays = tiny_families.config(case), tiny_families.tensors(case)
    config[LAYERS.get(config["model_type"], "num_hidden_layers")] = layers
    return numpy_families.hidden_states(config, arrays, ids, mask, types)


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def exact_attentions(case: str, monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """(B, heads, S, S) of each layer, from where the NumPy model mixes values."""
    seen: list[Array] = []
    attention, mix = numpy_families._attention, later_families._mix

    def of_batch(q: Array, k: Array, v: Array, heads: int, mask: Array, bias: Any) -> Array:
        first, second = (numpy_families._heads(x, heads) for x in (q, k))
        scores = first @ second.swapaxes(-1, -2) / np.sqrt(first.shape[-1]) + bias
        seen.append(softmax(np.where(mask[:, None, None, :] == 1, scores, -np.inf)))
        return attention(q, k, v, heads, mask, bias)

    def of_row(scores: Array, keys: Array, v: Array) -> Array:
        seen.append(softmax(np.where(keys, scores, -np.inf)))
        return mix(scores, keys, v)

    monkeypatch.setattr(numpy_families, "_attention", of_batch)
    monkeypatch.setattr(later_families, "_mix", of_row)
    if case not in LATER:
        numpy_families.outputs(tiny_families.config(case), tiny_families.tensors(case), *tiny_families.batch(case))
        return seen
    rows = len(later_families.batch(case)[0])
    later_families.run(case, "Model", *later_families.batch(case))
    layers = len(seen) // rows
    return [np.stack(seen[layer::layers]) for layer in range(layers)]


def between_attended(mask: Array) -> Array:
    """(B, 1, S, S): whether both tokens are."""
    return (mask[:, None, :, None] == 1) & (mask[:, None, None, :] == 1)


@pytest.mark.parametrize("case", KIN + LATER)
def test_probabilities(load: Callable[..., Any], case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, exact = batch(case), exact_attentions(case, monkeypatch)
    got = load(case)(*arrays, output_attentions=True).attentions
    pairs = between_attended(arrays[1])
    assert len(got) == len(exact)
    for ours, theirs in zip(got, exact, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert np.abs(np.where(pairs, ours - theirs, 0)).max() <= 2e-5
        assert not ours[np.broadcast_to(~pairs, ours.shape)].any()
        assert np.abs(ours.sum(-1, dtype=np.float64) - (arrays[1][:, None] == 1)).max() <= 1e-5
    assert max(float(layer.max()) for layer in got) > 0.2  # not flat, or any mistake would look right


@pytest.mark.parametrize("case", [case for case in KIN + LATER if "albert" not in case])
def test_hidden_states(load: Callable[..., Any], case: str) -> None:
    arrays = batch(case)
    out = load(case)(*arrays, output_hidden_states=True)
    where = arrays[1] == 1
    final_norm = "modernbert" in case  # behind the last layer alone
    for layers, state in enumerate(out.hidden_states):
        assert state.shape == out.last_hidden_state.shape and not state[~where].any()
        if not final_norm or layers == len(out.hidden_states) - 1:
            assert np.abs(state - exact_states(case, layers))[where].max() <= 2e-5, layers
    assert out.hidden_states[-1] is out.last_hidden_state
    assert len({state.tobytes() for state in out.hidden_states}) == len(out.hidden_states)


@pytest.mark.parametrize("case", ["albert", "albert_groups"])
def test_each_layer_inside_a_layer_of_albert_counts(load: Callable[..., Any], case: str) -> None:
    count = len(tiny_families.layer_prefixes(tiny_families.config(case)))
    out = load(case)(*batch(case), **ASKED)
    assert (len(out.hidden_states), len(out.attentions)) == (count + 1, count)


@pytest.mark.parametrize("case", ["bert", "mpnet", "albert_groups", "deberta", "deberta_own", "modernbert", "nomic"])
def test_bits(load: Callable[..., Any], case: str) -> None:
    """Alone, in any batch and group, on any number of threads, asked for one or both; and those of a plain call."""
    model, arrays = load(case), batch(case)
    plain, out = model(*arrays), model(*arrays, **ASKED)
    assert [None if f is None else f.tobytes() for f in plain] == [
        None if f is None else f.tobytes() for f in out[: len(plain)]
    ]
    expected = [state.tobytes() for state in (*out.hidden_states, *out.attentions)]
    one, other = model(*arrays, output_hidden_states=True), model(*arrays, output_attentions=True)
    assert one.attentions is None and other.hidden_states is None
    assert [state.tobytes() for state in (*one.hidden_states, *other.attentions)] == expected
    for threads in (1, 3):
        again = model(*arrays, **ASKED, num_threads=threads)
        assert [state.tobytes() for state in (*again.hidden_states, *again.attentions)] == expected
    for row in range(len(arrays[0])):
        alone = model(*(array[row : row + 1] for array in arrays), **ASKED)
        for name in ASKED:
            name = name.removeprefix("output_")
            for state, whole in zip(getattr(alone, name), getattr(out, name), strict=True):
                assert state[0].tobytes() == whole[row].tobytes()


def test_groups(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one sequence, written where it belongs, and of several, which are put there; with gaps and without."""
    model = load("bert")
    ids = np.arange(8 * 11).reshape(8, 11) % 60
    mask = np.ones_like(ids)
    mask[2, :4], mask[3, 6:], mask[4, 3:5], mask[5] = 0, 0, 0, 0
    expected = model(ids, mask, **ASKED)
    assert not expected.attentions[0][5].any() and not expected.hidden_states[0][5].any()
    for tokens in (1, 12, 25, 60):
        monkeypatch.setattr(type(model), "GROUP_TOKENS", tokens)
        got = model(ids, mask, **ASKED)
        for field, other in zip(got.hidden_states + got.attentions, expected.hidden_states + expected.attentions,
                                strict=True):  # fmt: skip
            assert field.tobytes() == other.tobytes(), tokens


def parts(model: Any, case: str, layer: int, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """q and k (heads, S, D) of a layer, from its input: the hidden states of the one before."""
    x = model(*arrays, output_hidden_states=True).hidden_states[layer][0]
    heads = tiny_families.CASES[case]["num_attention_heads"] if case == "bert" else 3
    w = tiny_families.tensors(case) if case == "bert" else later_families.run(case, "Model", *batch(case))[1]
    name = f"encoder.layer.{layer}.attention.self."
    suffixes = ("query", "key") if case == "bert" else ("query_proj", "key_proj")
    made = [
        ops.linear(
            x, fa.pack_linear(w[f"{name}{s}.weight"].astype(np.float32), w[f"{name}{s}.bias"].astype(np.float32))
        )
        for s in suffixes
    ]
    return *(a.reshape(len(x), heads, -1).swapaxes(0, 1) for a in made), w


def test_the_bits_are_those_of_attention(load: Callable[..., Any]) -> None:
    model, arrays = load("bert"), tuple(array[:1] for array in batch("bert"))
    got = model(*arrays, output_attentions=True).attentions
    for layer, probabilities in enumerate(got):
        q, k, _ = parts(model, "bert", layer, arrays)
        weights = fa.attention(q, k, k, return_weights=True).weights
        assert weights.tobytes() == probabilities[0].tobytes()


def test_the_bits_are_those_of_disentangled_attention(load: Callable[..., Any]) -> None:
    """A product of each head with its position keys and queries, the bias, and attention with that as its mask."""
    case = "deberta"
    model, arrays = load(case), tuple(array[:1] for array in batch(case))
    got = model(*arrays, output_attentions=True).attentions
    config = later_families.config(case)
    span, heads, hidden = config["position_buckets"], config["num_attention_heads"], config["hidden_size"]
    tokens = arrays[0].shape[1]
    scale = 1 / np.sqrt(hidden // heads * 3)
    for layer, probabilities in enumerate(got):
        q, k, w = parts(model, case, layer, arrays)
        w = {name: array.astype(np.float32) for name, array in w.items()}
        norm = "encoder.LayerNorm"
        table = ops.layer_norm(
            w["encoder.rel_embeddings.weight"], w[f"{norm}.weight"], w[f"{norm}.bias"], config["layer_norm_eps"]
        )
        products = {}
        for kind, own, x in (("c2p", "key_proj", q), ("p2c", "query_proj", k)):
            name = f"encoder.layer.{layer}.attention.self.{own}"
            projected = ops.linear(table, fa.pack_linear(w[f"{name}.weight"], w[f"{name}.bias"]))
            by_head = projected.reshape(2 * span, heads, -1).swapaxes(0, 1)
            products[kind] = np.stack(
                [ops.linear(np.ascontiguousarray(a), fa.pack_linear(np.ascontiguousarray(b))) for a, b in
                 zip(x, by_head, strict=True)]
            )  # fmt: skip
        at = np.arange(tokens)
        columns = distance_columns(tokens - 1, span, config["max_relative_positions"])
        bias = disentangled_bias(products["c2p"], products["p2c"], at, at, columns, scale)
        weights = fa.attention(q, k, k, mask=bias, scale=scale, return_weights=True).weights
        assert weights.tobytes() == probabilities[0].tobytes()


def test_long_rows_of_disentangled_attention(load: Callable[..., Any]) -> None:
    """Several blocks of a sequence, beside short ones: every row is written."""
    model = load("deberta")
    ids = np.arange(3 * 300).reshape(3, 300) % 50
    mask = np.ones_like(ids)
    mask[1, 7:], mask[2, ::3] = 0, 0
    got = model(ids, mask, **ASKED)
    sums = np.stack([layer.sum(-1, dtype=np.float64) for layer in got.attentions])
    assert np.abs(sums - (mask[:, None] == 1)).max() <= 1e-5
    alone = model(ids[1:2, :7], **ASKED)
    for layer, whole in zip(alone.attentions, got.attentions, strict=True):
        assert layer[0].tobytes() == np.ascontiguousarray(whole[1, :, :7, :7]).tobytes()


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForQuestionAnswering", "ForMaskedLM"])
@pytest.mark.parametrize("case", ["bert", "modernbert"])
def test_under_a_head(load: Callable[..., Any], case: str, head: str) -> None:
    """The fields of the class, then those that were asked for; nothing else when nobody asks."""
    model, arrays = load(case, head), batch(case)
    plain, out = model(*arrays), model(*arrays, **ASKED)
    assert out._fields == (*plain._fields, "hidden_states", "attentions")
    assert type(out).__name__ == type(plain).__name__
    assert [a.tobytes() for a in out[:-2]] == [a.tobytes() for a in plain]
    backbone = load(case)(*arrays, **ASKED)
    assert len(backbone.hidden_states) == len(out.hidden_states)
    assert {layer.shape for layer in out.attentions} == {layer.shape for layer in backbone.attentions}


def test_fields_and_programs(load: Callable[..., Any]) -> None:
    model, arrays = load("distilbert"), batch("distilbert")
    before = model.program(["hidden"])
    (last,) = model(*arrays)
    plain = model(*arrays)
    assert plain.hidden_states is None and plain.attentions is None and plain._fields == ("last_hidden_state",)
    last_again, attentions = model(*arrays, output_attentions=True)
    assert last_again.tobytes() == last.tobytes() and len(attentions) == 2
    out = model(*arrays, **ASKED)
    assert model.program(["hidden"]) is before and not any("attentions" in name for name in before.arrays)
    copied = pickle.loads(pickle.dumps(out))
    assert type(copied) is type(out) and copied._fields == out._fields
    assert copied.attentions[1].tobytes() == out.attentions[1].tobytes()
    for name in ASKED:
        for wrong in (None, 1, "yes", [True]):
            with pytest.raises(TypeError, match=f"{name}: expected a bool, got {type(wrong).__name__}"):
                model(*arrays, **{name: wrong})


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (1, 1), (2, 2)])
def test_small_batches(load: Callable[..., Any], shape: tuple[int, int]) -> None:
    model = load("bert")
    out = model(np.zeros(shape, int), np.zeros(shape, int), **ASKED)
    heads = out.attentions[0].shape[1]
    assert {state.shape for state in out.hidden_states} == {(*shape, model.hidden_size)}
    assert {layer.shape for layer in out.attentions} == {(shape[0], heads, shape[1], shape[1])}
    assert not any(array.any() for array in out.hidden_states + out.attentions)


def test_memory_is_that_of_the_result(load: Callable[..., Any]) -> None:
    """One long sequence is written where it belongs."""
    model = load("modernbert")
    ids = np.full((1, 1500), 7)
    model(ids)
    tracemalloc.start()
    try:
        out = model(ids, output_attentions=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = sum(layer.nbytes for layer in out.attentions)
    assert size == 4 * 3 * 1500 * 1500 * 4 and peak < size + (8 << 20)
