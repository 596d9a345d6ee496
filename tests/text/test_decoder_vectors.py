# SPDX-License-Identifier: MIT
"""Sentence vectors of language models: the last token's hidden state, instructions, pooling types of GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_decoders
from support.gguf_files import F32, I32, U32, Tensor
from support.vector_decoders import END, MODULES, QUERY, save, save_gguf, tokenizer, vector_files

import fastattn as fa

Array = np.ndarray[Any, Any]
TEXTS = ["The cat sat on the mat.", "", "a", "naïve 東京 🙂", "x" * 60, "ab ab", "<|im_end|> in the middle"]

POOL = {
    "lasttoken": lambda x: x[-1],
    "cls_token": lambda x: x[0],
    "mean_tokens": lambda x: x.mean(0),
    "weightedmean_tokens": lambda x: np.average(x, axis=0, weights=np.arange(1, len(x) + 1)),
}


def exact(folder: Path, text: str, mode: str, *, end: bool = True, prompt: str = "") -> Array:
    """The pooled hidden state of a text, in double precision."""
    c, w = numpy_decoders.load(folder)
    w = {name if name == "lm_head.weight" or name.startswith("model.") else f"model.{name}": a for name, a in w.items()}
    ids = np.array(tokenizer(end).encode(prompt + text).ids)
    found: Array = POOL[mode](numpy_decoders.hidden_states(c, w, ids, np.arange(len(ids))))
    return found


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x)


def near(got: Array, expected: Array) -> None:
    assert got.shape == expected.shape and np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "mistral", "llama"])
@pytest.mark.parametrize("bare", [False, True])
def test_the_last_token(tmp_path: Path, family: str, bare: bool) -> None:
    """Folders of an embedding model: the layer of a language model may be there or not, and its class named or not."""
    named = {"Qwen3": "qwen3", "Qwen2": "qwen2", "Mistral": "mistral", "Llama": "llama"}
    prefix = next(name for name, other in named.items() if other == family)
    more = {"architectures": [f"{prefix}Model"], "tie_word_embeddings": True} if bare else {}
    folder = save(tmp_path / "m", family, bare=bare, files=vector_files(), **more)
    model = fa.load(folder)
    assert model.notes == [] and model.embedding_size() == 48
    vectors = model.embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        near(vector, unit(exact(folder, text, "lasttoken")))
    assert model.embed(TEXTS, batch_size=2, num_threads=2).tobytes() == vectors.tobytes()
    assert np.concatenate([model.embed([text]) for text in TEXTS]).tobytes() == vectors.tobytes()
    again = fa.load(fa.pack(folder, tmp_path / "m.fastattn", dtype="float32"))
    assert again.embed(TEXTS).tobytes() == vectors.tobytes()


def test_instructions(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", files=vector_files())
    model = fa.load(folder)
    for text, vector in zip(TEXTS, model.embed(TEXTS, prompt_name="query"), strict=True):
        near(vector, unit(exact(folder, text, "lasttoken", prompt=QUERY)))
    own = "Instruct: Find the opposite\nQuery: "
    near(model.embed(["up"], prompt=own)[0], unit(exact(folder, "up", "lasttoken", prompt=own)))
    assert model.embed(["up"], prompt_name="document").tobytes() == model.embed(["up"]).tobytes()
    with pytest.raises(ValueError, match="prompt_name: got 'search', expected one of 'query', 'document'"):
        model.embed(["up"], prompt_name="search")


def test_a_text_that_is_cut_keeps_its_end(tmp_path: Path) -> None:
    """The token that says what the vector is, which the tokenizer puts behind the text."""
    folder = save(tmp_path / "m", files=vector_files())
    model = fa.load(folder)
    with pytest.warns(UserWarning, match="1 of 1 texts had more than 10 tokens"):
        got = model.embed(["abc" * 50], max_length=10)
    ids, _ = model.pipeline.tokenizer.encode("abc" * 50, 10)  # type: ignore[attr-defined]
    assert len(ids) == 10 and ids[-1] == END
    c, w = numpy_decoders.load(folder)
    near(got[0], unit(numpy_decoders.hidden_states(c, w, ids, np.arange(10))[-1]))


@pytest.mark.parametrize("mode", POOL)
def test_other_ways_to_pool(tmp_path: Path, mode: str) -> None:
    files = vector_files(mode)
    files["modules.json"] = MODULES[:2]
    folder = save(tmp_path / "m", "qwen3", files=files)
    for text, vector in zip(TEXTS, fa.load(folder).embed(TEXTS), strict=True):
        near(vector, exact(folder, text, mode))


def test_shorter_vectors_and_smaller_numbers(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", files=vector_files(truncate_dim=16))
    model = fa.load(folder)
    full = model.embed(TEXTS, truncate_dim=48, normalize=False)
    assert model.embed(TEXTS).shape == (len(TEXTS), 16)
    near(model.embed(TEXTS[:1], truncate_dim=5)[0], unit(full[0, :5].astype(np.float64)))
    bits = model.embed(TEXTS, precision="ubinary", truncate_dim=48)
    assert bits.tobytes() == np.packbits(full > 0, axis=1).tobytes()


@pytest.mark.parametrize("end", [True, False])
def test_a_folder_that_says_nothing(tmp_path: Path, end: bool) -> None:
    """The last token of a causal language model, as sentence-transformers has it; a model without that name: means."""
    folder = save(tmp_path / "m", end=end)
    near(fa.load(folder).embed(["a cat"])[0], exact(folder, "a cat", "lasttoken", end=end))
    folder = save(tmp_path / "bare", end=end, architectures=["Qwen3Model"])
    near(fa.load(folder).embed(["a cat"])[0], exact(folder, "a cat", "mean_tokens", end=end))
    if not end:
        assert not fa.load(folder).embed([""]).any()


# ---- GGUF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("kind", "flag"), [(1, "mean_tokens"), (2, "cls_token"), (3, "lasttoken")])
def test_pooling_types(tmp_path: Path, kind: int, flag: str, dtype: str) -> None:
    """The bits of the folder, whatever the architecture is; packed too."""
    for family in ("qwen3", "llama"):
        folder = save(tmp_path / family, family, files=vector_files(flag), dtype=dtype)
        file = save_gguf(tmp_path / f"{family}.gguf", family, dtype=dtype, fields={"{}.pooling_type": U32(kind)})
        expected = fa.load(folder).embed(TEXTS)
        model = fa.load(file)
        assert model.notes == [] and model.embed(TEXTS).tobytes() == expected.tobytes()
        packed = fa.load(fa.pack(file, tmp_path / f"{family}.fastattn"))
        assert packed.embed(TEXTS).tobytes() == expected.tobytes()
        assert model.generate("a", max_new_tokens=3)[0].token_ids  # type: ignore[attr-defined]


@pytest.mark.parametrize("fields", [{}, {"{}.pooling_type": U32(0)}])
@pytest.mark.parametrize("end", [True, False])
def test_no_pooling_type(tmp_path: Path, fields: dict[str, Any], end: bool) -> None:
    """As of a folder that says nothing; add_eos_token is obeyed."""
    folder = save(tmp_path / "m", end=end)
    model = fa.load(save_gguf(tmp_path / "m.gguf", dtype="float32", end=end, fields=fields))
    assert model.embed(TEXTS[2:]).tobytes() == fa.load(folder).embed(TEXTS[2:]).tobytes()


RANK = {"{}.pooling_type": U32(4)}
ROWS = np.ones((2, 48), np.float32)


@pytest.mark.parametrize(
    ("fields", "more", "match"),
    [
        ({"{}.pooling_type": U32(5)}, {}, r"pooling_type is 5, expected 0 \(none\), 1 \(mean\), 2 \(cls\), 3 \(last\)"),
        ({"{}.pooling_type": U32(4294967295)}, {}, "pooling_type is 4294967295, expected a number from 0"),
        ({"{}.pooling_type": I32(-1)}, {}, "pooling_type is -1, expected a number from 0"),
        ({"{}.pooling_type": "last"}, {}, "pooling_type is 'last', expected a number from 0"),
        ({"{}.pooling_type": F32(3.0)}, {}, "pooling_type is 3.0, expected a number from 0"),
        ({"{}.pooling_type": True}, {}, "pooling_type is True, expected a number from 0"),
        (RANK, {}, "qwen3.pooling_type is 4 .rank., but there is no tensor 'cls.output.weight'"),
        (RANK, {"cls.output.weight": ROWS[0]}, r"has shape \[48\], expected \[labels, 48\]"),
        (RANK, {"cls.output.weight": ROWS[:, :32]}, r"has shape \[2, 32\], expected \[labels, 48\]"),
        (RANK, {"cls.output.weight": ROWS, "cls.weight": ROWS}, "tensor 'cls.weight' is not supported"),
        (RANK, {"cls.output.weight": ROWS, "cls.output.bias": ROWS[0, :2]}, "'cls.output.bias' is not supported"),
        (
            {**RANK, "{}.classifier.output_labels": ["yes"]}, {"cls.output.weight": ROWS},
            "classifier.output_labels is 'of 1', expected 2 labels",
        ),
        (
            {**RANK, "{}.classifier.output_labels": U32(2)}, {"cls.output.weight": ROWS},
            "classifier.output_labels is 2, expected 2 labels",
        ),
    ],
)  # fmt: skip
def test_files_that_lie(tmp_path: Path, fields: dict[str, Any], more: dict[str, Tensor], match: str) -> None:
    path = save_gguf(tmp_path / "m.gguf", fields=fields, more=more)
    with pytest.raises(ValueError, match=match) as caught:
        fa.load(path)
    assert str(path) in str(caught.value)
