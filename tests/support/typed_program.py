# SPDX-License-Identifier: MIT
"""A program of a user who runs ``mypy --strict``: it uses every public name. test_types.py checks it and runs it.

Lines with "# refused" are those that a type checker has to complain about; they are not run.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastattn as fa
from fastattn import ops, text
from fastattn import typing as types
from fastattn.attention import AttentionResult, attend_stored, disentangled_bias, distance_columns
from fastattn.engine.encoder import Floats
from fastattn.loaders import TensorInfo, WeightFile, WeightFileError
from fastattn.merge import MergedAttention
from fastattn.rope import RopeTable
from fastattn.similarity import TopK
from fastattn.text import TextEncoder
from fastattn.text.batches import Integers
from fastattn.text.tokenizer import Tokens

F32 = NDArray[np.float32]


def ones(*shape: int) -> F32:
    """An array whose shape is not part of its type."""
    return np.ones(shape, np.float32)


def operators() -> None:
    x = ones(4, 8)
    half = x.astype(np.float16)
    raw = x.data
    out = ones(4, 8)
    layer = fa.pack_linear(ones(8, 8), np.zeros(8, np.float32), "bfloat16")
    assert_type(layer, fa.PackedLinear)
    assert_type(fa.linear(x, layer, activation="gelu_tanh"), F32)
    assert_type(fa.linear(raw, layer, out=out), F32)
    assert_type(fa.layer_norm(x, x[0], x[0], 1e-5, residual=x), F32)
    assert_type(fa.rms_norm(x, x[0]), F32)
    assert_type(fa.softmax(x), F32)
    assert_type(fa.softmax(array("f", [1.0, 2.0])), F32)
    assert_type(fa.softmax(x, out=raw), memoryview)
    assert_type(fa.gelu(x, "tanh"), F32)
    assert_type(fa.silu(x), F32)
    assert_type(ops.linear(x, layer), F32)
    assert_type(ops.layer_norm(x, x[0]), F32)
    assert_type(ops.rms_norm(x, x[0], out=out), F32)
    assert_type(ops.softmax(x, num_threads=1), F32)
    assert_type(ops.gelu(x), F32)
    assert_type(ops.silu(x), F32)
    assert_type(ops.relu(x), F32)
    assert_type(ops.tanh(x), F32)
    assert_type(ops.sigmoid(x), F32)
    assert_type(ops.gated(x, x, "silu"), F32)
    assert_type(ops.add(x, x), F32)
    assert_type(ops.l2_normalize(x), F32)
    assert_type(ops.embedding([x, x], [[0, 1], np.array([1, 2])]), F32)
    assert_type(ops.pool(x, [0, 1, 4], "weighted_mean", skip=1), F32)
    ranges = np.stack([-x[0], x[0]])
    assert_type(ops.quantize(x, ranges), NDArray[np.int8])
    assert_type(ops.quantize(x, ranges, "uint8"), NDArray[np.uint8])
    assert_type(ops.quantize(x, ranges, out=x.astype(np.int8)), NDArray[np.int8])

    assert_type(layer.panels, NDArray[Any])
    assert_type(layer.bias, F32 | None)
    assert_type(layer.arrays(), dict[str, NDArray[Any]])
    sizes = layer.in_features, layer.out_features, layer.nbytes
    assert_type(sizes, tuple[int, int, int])
    kind: types.WeightType = "float32"
    assert_type(layer.dtype, str)
    assert_type(layer.activations, str | None)
    assert_type(fa.PackedLinear.from_arrays(layer.arrays(), 8, 8, layer.dtype), fa.PackedLinear)
    assert_type(fa.pack_linear(x, dtype=kind), fa.PackedLinear)

    table = fa.rope_table([[0, 1, 2, 3]], 8, base=1e4, scaling={"rope_type": "linear", "factor": 2.0})
    assert_type(table, RopeTable)
    assert_type(table.cos, F32)
    cos, sin = fa.rope_table(4, 8)
    assert_type(fa.rope(x, cos, sin), F32)
    assert_type(fa.rope(half, cos, sin, position_ids=range(4)), NDArray[np.float16])
    assert_type(fa.rope(raw, cos, sin), NDArray[Any])
    assert_type(fa.rope(x, cos, sin, out=out), F32)

    assert_type(fa.similarity(x, half, "dot"), F32)
    assert_type(fa.similarity(x, raw, out=ones(4, 4)), F32)
    best = fa.similarity(x, x, top_k=2)
    assert_type(best, TopK)
    assert_type(best.scores, F32)
    assert_type(best.indices, NDArray[np.int64])

    tokens = ones(1, 4, 2, 8)
    decay = np.zeros((1, 4, 2), np.float32)
    found = fa.linear_attention(tokens, tokens, tokens, rule="gated", decay=decay)
    assert_type(found.state, F32 | Any)
    assert_type(fa.get_num_threads(), int)
    fa.set_num_threads(None)
    assert_type(fa.cpu_info()["isa"], str)
    assert_type(fa.build_info()["numerics_version"], int)


def attention(again: bool = True, stage: types.ScoreStage | None = "qk") -> None:
    q = ones(1, 2, 4, 8)
    half = q.astype(np.float16)
    raw = q.data
    out = ones(1, 2, 4, 8)
    mask = np.ones((4, 4), np.bool_)
    causal: types.Causal = "top_left"
    window: types.Window = (np.int64(2), None)
    assert_type(fa.attention(q, q, q), F32)
    assert_type(
        fa.attention(half, half, half, causal=causal, window=window, scale=0.5, softcap=30), NDArray[np.float16]
    )
    assert_type(fa.attention(raw, q, q, mask=mask, kv_lengths=[4]), NDArray[Any])
    assert_type(fa.attention(q, q, q, q_offset=0, out=out), F32)
    blocks: types.BlockMask = (([0, 1, 2], [0, 1]), (2, 2))
    assert_type(fa.attention(q, q, q, block_mask=blocks, sinks=q[0, :, 0, 0]), F32)
    bias: types.RelativeBias = (np.zeros((2, 32), np.float32), True, 128)
    assert_type(fa.attention(q, q, q, relative_bias=bias, alibi_slopes=q[0, :, 0, 0]), F32)
    whole = fa.attention(q, q, q, return_lse=True, return_weights=True, return_scores=stage)
    assert_type(whole, AttentionResult)
    assert_type(whole.out, NDArray[Any] | Any)
    assert_type(whole.lse, F32 | Any)
    assert_type(whole.weights, F32 | Any)
    assert_type(fa.attention(q, q, q, return_weights=True), AttentionResult)
    assert_type(fa.attention(q, q, q, return_scores="bias", out=out).scores, F32 | Any)
    assert_type(fa.attention(q, q, q, return_lse=again), NDArray[Any] | AttentionResult)
    options: types.AttentionOptions = {"causal": True, "num_threads": 1}
    assert_type(fa.attention(q, q, q, **options), F32)

    merged = fa.merge_attention([whole.out, out], [whole.lse, whole.lse])
    assert_type(merged, MergedAttention)
    assert_type(merged.lse, F32)

    t = ones(5, 2, 8)
    cu = np.array([0, 2, 5])
    assert_type(fa.attention_varlen(t, t, t, cu, cu), F32)
    assert_type(fa.attention_varlen(t.astype(np.float16), t, t, [0, 2, 5], (0, 2, 5)), NDArray[np.float16])
    assert_type(fa.attention_varlen(t, t, t, cu, cu, out=ones(5, 2, 8)), F32)
    assert_type(fa.attention_varlen(t, t, t, cu, cu, return_lse=True), AttentionResult)
    packed: types.VarlenOptions = {"window": (1, 0)}
    assert_type(fa.attention_varlen(t, t, t, cu, cu, **packed), F32)

    columns = distance_columns(3, 4)
    assert_type(columns, NDArray[np.int32])
    assert_type(disentangled_bias(q[0], None, [0, 1, 2, 3], range(4), columns, 1.0), F32)
    stored = q, q, q, np.array([4]), np.array([0])
    attend_stored(*stored[:4], q_offset=stored[4])


def caches() -> None:
    k = ones(1, 2, 4, 8)
    cache = fa.KVCache(1, 1, 2, 8, max_length=64, dtype=np.float16)
    table = fa.rope_table(64, 8)
    rope: types.RopeTables = (table.cos, table.sin, False)
    cache.append(0, k, k, [4], rope=rope)
    assert_type(cache.attend(0, k), F32)
    assert_type(cache.attend(0, k.astype(np.float16), scale=1.0), NDArray[np.float16])
    assert_type(cache.attend(0, k, return_lse=True).lse, F32 | Any)
    some: types.AttendOptions = {"causal": True, "mask": np.ones((4, 4), np.bool_)}
    assert_type(cache.attend(0, k, out=ones(1, 2, 4, 8), **some), F32)
    cache.advance([4])
    cache.truncate(2)
    cache.reorder([0, 0])
    assert_type(cache.fork(), fa.KVCache)
    assert_type(cache.lengths, NDArray[np.int64])
    assert_type(cache.batch + cache.nbytes, int)

    paged = fa.PagedKVCache(1, 2, 8, num_pages=4, page_size=16, dtype="int8")
    first, t = paged.add(), ones(4, 2, 8)
    assert_type(first, int)
    paged.append(0, first, t, t, [0, 4], rope=table)
    assert_type(paged.attend(0, [first], t), F32)
    assert_type(paged.attend(0, first, t, [0, 4], return_weights=True), AttentionResult)
    more: types.PackedOptions = {"softcap": 20.0}
    assert_type(paged.attend(0, first, t.astype(np.float16), **more), NDArray[np.float16])
    paged.advance(first, 4)
    paged.truncate(first, [2])
    second = paged.fork(first)
    paged.reorder([first], [second])
    assert_type(paged.lengths([first, second]), NDArray[np.int64])
    paged.free([second])
    assert_type(paged.sequences, list[int])
    assert_type((paged.nbytes, paged.page_size, paged.pages_free, paged.pages_used), tuple[int, int, int, int])
    try:
        fa.KVCache(1, 1, 2, 8, max_length=2, dtype=np.dtype("float32")).append(0, k, k)
    except fa.CacheFull as error:
        assert_type(error, fa.CacheFull)


def weights(folder: Path) -> None:
    file = fa.open_weights(folder)
    assert_type(file, WeightFile)
    name = next(iter(file))
    assert_type(file[name], np.ndarray[Any, Any])
    assert_type(file.as_float32(name), Floats)
    assert_type(file.row_reader(name)(0, 1), Floats)
    assert_type(file.block_reader(name), Callable[[int, int], np.ndarray[Any, np.dtype[np.uint8]]] | None)
    assert_type(file.shown(name), str)
    file.forget(name)
    assert_type(file.info(name), TensorInfo)
    assert_type((file.dtype(name), file.shape(name), file.fingerprint()), tuple[str, tuple[int, ...], str])
    assert_type(
        (len(file.keys()), len(file.values()), len(file.items()), len(file.metadata)), tuple[int, int, int, int]
    )
    assert_type(file.path, Path)
    assert file.get("no such tensor") is None
    try:
        fa.open_weights(folder / "config.json")
    except WeightFileError as error:
        assert_type(error, WeightFileError)


def embedder(folder: Path, target: Path, precision: types.Precision = "ubinary") -> None:
    assert_type(fa.pack(folder, target, "int8", head="none"), Path)
    model = fa.load(folder, "float32", 1, head=None, activations=None, strict=True, verify=False)
    assert_type(model, TextEncoder)
    ids: types.TokenIds = [[2, 5, 3], [2, 6, 3]]
    output = model(ids, attention_mask=np.ones((2, 3), np.int64), token_type_ids=np.zeros((2, 3), np.int64))
    assert_type(output.last_hidden_state, F32)
    assert_type(output.pooler_output, F32 | None)
    assert_type(model.run_heads(ids, timeout=60), dict[str, types.ModelOutput])
    output = model(ids, output_hidden_states=True, output_attentions=True, timeout=60.0)
    assert_type(output.hidden_states, tuple[F32, ...] | None)
    assert_type(output.attentions, tuple[F32, ...] | None)

    vectors = model.embed(["a", "b"], 8, True, prompt="c", progress=False)
    assert_type(vectors, text.Vectors[np.float32])
    assert_type(vectors.truncated, int)
    plain: text.Vectors = vectors
    array: F32 = plain
    scores = fa.similarity(array, vectors)
    assert_type(scores, F32)
    ends = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    assert_type(model.embed(["a"], precision="int8", ranges=ends), text.Vectors[np.int8])
    assert_type(model.embed(["a"], precision="uint8", ranges=ends.tolist()), text.Vectors[np.uint8])
    assert_type(model.embed(["a"], precision="binary"), text.Vectors[np.int8])
    assert_type(model.embed(["a"], precision="ubinary", on_long="error"), text.Vectors[np.uint8])
    assert_type(model.embed(["a"], precision=precision), text.Vectors[Any])
    matrices = model.embed_tokens(("a", "b c"), normalize=True)
    assert_type(matrices, text.Results[Floats])
    assert_type(matrices.truncated, int)
    found = model.tokens(iter(["a b"]), vectors=True)
    assert_type(found, text.Results[list[text.Token]])
    assert_type(found[0][0].vector, Floats | None)
    assert_type(model.embedding_size(8), int)
    model.max_seq_length = 16
    model.chosen_length = None
    model.num_threads = None
    assert_type(model.max_seq_length + model.text_positions, int)
    assert_type(model.notes, list[str])
    model.warm()

    pipeline = text.TextPipeline(model)
    assert_type(pipeline.embed(["a"], 4), text.Vectors[Any])
    assert_type(pipeline.embed_tokens(["a"]), text.Results[Floats])
    assert_type(pipeline.dimension(4) + pipeline.max_length(), int)
    assert_type(pipeline.tokenizer, text.TextTokenizer)
    assert_type(pipeline.embedder.dimension(), int)
    pipeline.warm()
    settings = text.TextSettings.read(folder)
    assert_type((settings.lowercase, settings.token_types), tuple[bool, bool])
    assert_type((settings.max_length, settings.truncation_side), tuple[int | None, str])
    tokenizer = text.TextTokenizer(folder, settings, 32)
    pair = tokenizer.encode(("a b", "c"), 8)
    assert_type(pair, Tokens)
    limit = tokenizer.limit(8, "error")
    assert_type(tokenizer.encode_many(["a", ("a", "b")], limit), list[Tokens])
    assert_type(tokenizer.encode_between("a", ["b"], "c", limit), list[Tokens])
    assert_type(tokenizer.plain_ids("a"), list[int])
    assert_type(tokenizer.encode_offsets("a b")[1], Integers)
    assert_type(next(tokenizer.encode_windows("a", "b c")), tuple[Tokens, Integers])
    assert_type(tokenizer.count_prompt("a") + tokenizer.check_length(8, "length"), int)
    tokenizer.check_cost("a", "text")
    try:
        model.embed(["a b c d e f g"], max_length=4, on_long="error")
    except fa.TextTooLong as error:
        assert_type(error, text.TextTooLong)
    try:
        model.embed(["a"], timeout=1e-9)
    except fa.DeadlineExceeded as late:
        assert_type(late, fa.DeadlineExceeded)
    assert issubclass(text.TruncationWarning, UserWarning)
    loaded = text.load(folder)
    assert_type(loaded, text.TextEncoder)
    if (folder / "adapter_config.json").exists():
        assert_type(model.load_adapter(folder), text.TextEncoder)
    if isinstance(loaded, text.TextDecoder):
        assert_type(loaded.generate([[1, 2], [3]], max_new_tokens=2)[0].token_ids, tuple[int, ...])
        assert_type(loaded.generate("a", temperature=0.5, stop=["b"], logit_bias={3: 1.0}), list[text.Generation])
        stream = loaded.stream("a", max_tokens=3)
        assert_type(stream, text.Stream)
        assert_type(list(stream), list[str])
        assert_type(stream.result().finish_reason, str)
        assert_type(loaded.score(["a", "b"]), list[text.Score])
        assert_type(loaded.chat([{"role": "user", "content": "a"}], max_new_tokens=3), text.Generation)
        try:
            assert_type(loaded.apply_chat_template([{"role": "user", "content": "a"}], tools=None), str)
        except text.TemplateError as error:
            assert_type(error, text.TemplateError)
        assert_type(loaded.tokenizer.encode("a"), list[int])
        assert_type(loaded.tokenizer, text.ModelTokenizer)


def heads(classifier: Path, tagger: Path, reader: Path) -> None:
    model = fa.load(classifier, head="sequence_classification")
    name: types.HeadName = "token_classification"
    model.add_head("other", fa.load(classifier, dtype="int8"))
    assert_type(model([[2, 5, 3]]).logits, F32)
    labels = model.classify(["a", ("a", "b"), ["a", "c"]], head="other", top_k=1, activation="softmax", prompt="b")
    assert_type(labels, text.Results[text.Classification])
    assert_type(labels[0].scores, tuple[float, ...])
    ranking = model.rerank("a", ["b", "c"], top_k=1, activation="none", head="sequence_classification")
    assert_type(ranking, text.Results[text.Ranked])
    assert_type(ranking[0].index, int)
    tokens = fa.load(tagger, head=name).tokens(["a b"], aggregate=True)
    assert_type([token.label for token in tokens[0]], list[str | None])
    model = fa.load(reader)
    answer = model.answer("a", "b c", max_answer_tokens=2)
    assert_type(answer, text.Answer)
    assert_type((answer.text, answer.start, answer.score), tuple[str, int, float])
    logits = model([[2, 5, 3]])
    assert_type(logits.start_logits, F32)
    assert_type(logits.end_logits, F32)
    pipeline = text.TextPipeline(model)
    assert_type(pipeline.answer("a", "b", max_answer_tokens=1, head=None, num_threads=1), text.Answer)
    if TYPE_CHECKING:  # of tasks that this model has no head for
        assert_type(pipeline.classify(["a"]), text.Results[text.Classification])
        assert_type(pipeline.rerank("a", ["b"]), text.Results[text.Ranked])
        assert_type(pipeline.rerank_by_answers("a", ["b"]), text.Results[text.Ranked])
        assert_type(pipeline.tokens(["a"]), text.Results[list[text.Token]])


class Tensor:
    """What torch and JAX have."""

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> object:
        return None

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Column:
    """What pandas and Arrow have."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.arange(2)


if TYPE_CHECKING:
    tensor, column, q, model = Tensor(), Column(), ones(2, 4, 8), fa.load("folder")
    cache, paged = fa.KVCache(1, 1, 1, 8, max_length=8), fa.PagedKVCache(1, 1, 8, num_pages=8)
    layer = fa.pack_linear(tensor, tensor, "int8")

    # other libraries' tensors, in and out
    assert_type(fa.attention(tensor, tensor, tensor, kv_lengths=tensor), NDArray[Any])
    assert_type(fa.attention(q, tensor, tensor, out=tensor), Tensor)
    assert_type(fa.softmax(tensor, out=tensor), Tensor)
    assert_type(fa.linear(tensor, layer), F32)
    assert_type(fa.rope(tensor, tensor, tensor, position_ids=column), NDArray[Any])
    assert_type(cache.attend(0, tensor), NDArray[Any])
    assert_type(paged.attend(0, 0, tensor, out=tensor), Tensor)
    assert_type(model(column).logits, F32)
    members: list[types.Array | types.Indices] = [tensor, q, b"", memoryview(b"")]
    protocols: tuple[types.SupportsDLPack, types.SupportsBuffer, types.SupportsArray] = (tensor, b"", column)
    names: tuple[types.Activation, types.PoolMode, types.Rule, types.Metric] = ("gelu", "cls", "delta", "dot")
    what: tuple[types.OnLong, types.StorageType, types.TextOrPair] = ("error", np.int8, ["a", "b"])

    # options by a name that there is not, and arguments of a kind that is not taken
    fa.attention(q, q, q, causal="bottom")  # refused
    fa.attention(q, q, q, return_scores="mask")  # refused
    fa.attention(q, q, q, caucal=True)  # refused
    fa.attention([[1.0]], q, q)  # refused
    fa.attention(q, q, q, mask=[[True]])  # refused
    fa.attention(q, q, q, window=3)  # refused
    fa.attention_varlen(q, q, q, "0", [0, 2])  # refused
    fa.attention_varlen(q, q, q, [0.0, 2.0], [0, 2])  # refused
    fa.attention_varlen(q, q, q, [0, 2], [0, 2], mask=q)  # refused
    cache.attend(0, q, kv_lengths=[1])  # refused
    paged.attend(0, 0, q, mask=q)  # refused
    cache.append(0, q, q, rope=q)  # refused
    fa.KVCache(1, 1, 1, 8, max_length=8, dtype="int4")  # refused
    fa.linear(q, layer, activation="elu")  # refused
    fa.linear(q, q)  # refused
    fa.gelu(q, "erf")  # refused
    ops.pool(q[0], [0, 4], "median")  # refused
    ops.quantize(q, q, "int4")  # refused
    fa.linear_attention(q, q, q, rule="mamba")  # refused
    fa.similarity(q, q, "l2")  # refused
    fa.similarity(q, q, top_k=2.0)  # refused
    fa.pack_linear(q, dtype="int2")  # refused
    fa.pack("folder", "file", "int2")  # refused
    fa.load("folder", "float64")  # refused
    fa.load("folder", activations="int4")  # refused
    model([[1.5]])  # refused
    model.embed(5)  # refused
    model.embed(["a"], precision="int4")  # refused
    model.embed(["a"], on_long="cut")  # refused
    model.classify(["a"], activation="relu")  # refused
    model.rerank("a", ["b"], activation="softmax")  # refused
    print(model.embed(["a"]).truncatd)  # refused
    vector: NDArray[np.float64] = model.embed(["a"])  # refused
    small: NDArray[np.float32] = model.embed(["a"], precision="binary")  # refused
