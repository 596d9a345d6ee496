# SPDX-License-Identifier: MIT
"""`fastattn classify` and `fastattn rerank` beside the API; their inputs, outputs and what can be wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import run
from support.text_folders import save_task_folder
from support.vector_decoders import save

import fastattn
from fastattn import cli

pytest.importorskip("tokenizers")

TEXTS = ["the cat sat on the mat.", "", "a", "b c d", "über 東京", "abcd " * 60]
LABELS = ["good", "bad", "ugly"]
PAIRS = [("the cat", "a b"), ("", "a"), ("über", "the mat the mat")]
QUERY = "the cat"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_task_folder(tmp_path_factory.mktemp("c") / "model", "sequence_classification", LABELS))


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_task_folder(tmp_path_factory.mktemp("r") / "model", "sequence_classification", ["LABEL_0"]))


def rows_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.removesuffix("\n").split("\n")] if out else []


def float32(value: Any) -> Any:
    """As JSON's nine digits give it back."""
    return np.array(value, np.float32).tolist()


def good(*args: str, stdin: bytes = b"") -> list[dict[str, Any]]:
    status, out, err = run(*args, stdin=stdin)
    assert status == 0 and re.fullmatch(r"(fastattn: .*: \d+ \w+ cut to 40 tokens\n)?", err), err
    return rows_of(out)


# ---- classify


@pytest.mark.parametrize("options, count", [([], 0), (["--top-k", "2"], 2), (["--all", "--batch-size", "1"], 3)])
def test_classify(classifier: str, options: list[str], count: int) -> None:
    found = good("classify", "--model", classifier, *options, *TEXTS)
    for row, text, known in zip(found, TEXTS, fastattn.load(classifier).classify(TEXTS), strict=True):
        assert (row["text"], row["label"], float32(row["score"])) == (text, known.label, float32(known.score))
        if count:
            assert list(row) == ["text", "label", "score", "labels", "scores"]
            assert row["labels"] == list(known.labels[:count])
            assert float32(row["scores"]) == float32(known.scores[:count])
        else:
            assert list(row) == ["text", "label", "score"]


def test_classify_pairs_from_everywhere(classifier: str, tmp_path: Path) -> None:
    known = fastattn.load(classifier).classify(PAIRS)
    expected = [
        {"text": a, "text_pair": b, "label": each.label, "score": float32(each.score)}
        for (a, b), each in zip(PAIRS, known, strict=True)
    ]
    arguments = [word for pair in PAIRS for word in ("--pair", *pair)]
    jsonl = "".join(json.dumps({"n": n, "p": a, "h": b}) + "\n" for n, (a, b) in enumerate(PAIRS))
    csv = tmp_path / "pairs.tsv"
    csv.write_text("p\th\tn\n" + "".join(f"{a}\t{b}\t{n}\n" for n, (a, b) in enumerate(PAIRS)))
    columns = ["--column", "p", "--pair-column", "h"]
    ways = [
        good("classify", "--model", classifier, *arguments),
        good("classify", "--model", classifier, "--format", "jsonl", *columns, "-", stdin=jsonl.encode()),
        good("classify", "--model", classifier, *columns, "--input", str(csv)),
    ]
    for found in ways:
        assert [{**row, "score": float32(row["score"])} for row in found] == expected
    kept = good("classify", "--model", classifier, *columns, "--keep", "n", "--input", str(csv))
    assert [row["n"] for row in kept] == ["0", "1", "2"]


def test_classify_to_parquet(classifier: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    target = tmp_path / "labels.parquet"
    assert good("classify", "--model", classifier, "--all", "--output", str(target), *TEXTS) == []
    table = pyarrow.parquet.read_table(target).to_pylist()
    known = fastattn.load(classifier).classify(TEXTS)
    assert [row["text"] for row in table] == TEXTS
    assert [row["labels"] for row in table] == [list(each.labels) for each in known]
    assert [row["scores"] for row in table] == [float32(each.scores) for each in known]
    assert good("classify", "--model", classifier, "--all", "--output", str(target), "-") == []
    assert pyarrow.parquet.read_table(target).num_rows == 0


# ---- rerank


def test_rerank(ranker: str) -> None:
    known = fastattn.load(ranker).rerank(QUERY, TEXTS)
    for options, count in (([], len(TEXTS)), (["--top-k", "3"], 3), (["--top-k", "99"], len(TEXTS))):
        found = good("rerank", "--model", ranker, "--query", QUERY, *options, *TEXTS)
        assert [(row["index"], float32(row["score"]), row["text"]) for row in found] == [
            (each.index, float32(each.score), TEXTS[each.index]) for each in known[:count]
        ]
        assert list(found[0]) == ["index", "score", "text"]


def test_rerank_a_file_in_pieces(ranker: str, tmp_path: Path) -> None:
    """Documents that come in many pieces, most of them with equal scores: the first of those win."""
    docs = [TEXTS[i * i % 6] if i % 7 else "" for i in range(9000)]
    source = tmp_path / "docs.jsonl"
    source.write_text("".join(json.dumps({"body": doc, "id": i}) + "\n" for i, doc in enumerate(docs)))
    known = fastattn.load(ranker).rerank(QUERY, docs, top_k=2000)
    options = ["--query", QUERY, "--input", str(source), "--column", "body", "--keep", "id", "--top-k", "2000"]
    found = good("rerank", "--model", ranker, *options)
    assert [(row["index"], row["id"]) for row in found] == [(each.index, each.index) for each in known]
    assert [float32(row["score"]) for row in found] == [float32(each.score) for each in known]


def test_the_index_of_a_document_counts_rows_that_are_left_out(ranker: str) -> None:
    stdin = b'{"text": "a"}\n\n{"text": null}\n{"text": "b c d"}\n'
    status, out, err = run(
        "rerank", "--model", ranker, "--query", "q", "--format", "jsonl", "--on-null", "skip", "-", stdin=stdin
    )
    assert (status, err) == (0, "fastattn: standard input: 1 row without a text left out\n")
    assert sorted((row["index"], row["text"]) for row in rows_of(out)) == [(0, "a"), (2, "b c d")]


def test_rerank_by_a_language_model(ranker: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m")
    ask = "Q: {query} D: {document}="
    known = fastattn.load(folder).rerank(QUERY, TEXTS[:4], prompt=ask, answers=("y", "n"), batch_size=2)
    options = ("--query", QUERY, "--prompt", ask, "--yes", "y", "--batch-size", "2")
    found = good("rerank", "--model", str(folder), *options, "--no", "n", *TEXTS[:4])
    assert [(row["index"], np.float32(row["score"])) for row in found] == [(i, np.float32(s)) for i, s in known]
    one = fastattn.load(folder).rerank(QUERY, TEXTS[:4], prompt=ask, answers="y")
    found = good("rerank", "--model", str(folder), *options, *TEXTS[:4])
    assert [np.float32(row["score"]) for row in found] == [np.float32(s) for _, s in one]
    status, out, err = run("rerank", "--model", ranker, "--query", "q", "--yes", "y", "a")
    assert (status, out) == (1, "") and "--yes: the model is no language model" in err
    status, out, err = run("rerank", "--model", str(folder), "--query", "q", "--no", "y", "a")
    assert (status, out) == (2, "") and "--no: expected with --yes" in err
    status, out, err = run("rerank", "--model", str(folder), "--query", "q", "a")
    assert (status, out) == (1, "") and "nothing says how the model is asked" in err


def test_rerank_for_many_queries(ranker: str, tmp_path: Path) -> None:
    queries = [(QUERY, TEXTS), ("a", []), ("", ["b", "the"]), ("b", TEXTS * 40)]
    model = fastattn.load(ranker)
    lines = "".join(json.dumps({"query": query, "docs": docs, "n": len(docs)}) + "\n" for query, docs in queries)
    source = tmp_path / "queries.jsonl"
    source.write_text(lines)
    for args, stdin in ((["--input", str(source)], b""), (["-"], lines.encode())):
        found = good("rerank", "--model", ranker, "--top-k", "5", "--keep", "n", *args, stdin=stdin)
        for row, (query, docs) in zip(found, queries, strict=True):
            known = model.rerank(query, docs, top_k=5)
            assert (row["query"], row["n"]) == (query, len(docs))
            assert [(each["index"], float32(each["score"]), each["text"]) for each in row["results"]] == [
                (each.index, float32(each.score), docs[each.index]) for each in known
            ]


def test_rerank_parquet_for_many_queries(ranker: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    source, target = tmp_path / "q.parquet", tmp_path / "r.parquet"
    parquet.write_table(pyarrow.table({"q": ["the", "a"], "d": [["a", "b"], ["the cat"]]}), source)
    columns = ["--query-column", "q", "--docs-column", "d"]
    assert good("rerank", "--model", ranker, *columns, "--input", str(source), "--output", str(target)) == []
    found = parquet.read_table(target).to_pylist()
    assert [row["query"] for row in found] == ["the", "a"]
    assert [[each["index"] for each in row["results"]] for row in found] == [
        [each.index for each in fastattn.load(ranker).rerank(query, docs)]
        for query, docs in (("the", ["a", "b"]), ("a", ["the cat"]))
    ]


# ---- what is wrong


@pytest.mark.parametrize(
    "args, words",
    [
        (["classify", "a"], "--model"),
        (["classify", "--model", "m"], "expected TEXT arguments"),
        (["classify", "--model", "m", "--all", "--top-k", "2", "a"], "--top-k: not with --all"),
        (["classify", "--model", "m", "--pair", "a", "b", "c"], "--text: not with --pair"),
        (["classify", "--model", "m", "--pair", "a", "b", "--input", "f"], "--input: not with --pair"),
        (["classify", "--model", "m", "--pair-column", "b", "a"], "--pair-column: not with TEXT"),
        (["classify", "--model", "m", "--pair-column", "b", "--input", "f.txt"], "lines have no columns"),
        (["classify", "--model", "m", "--column", "b", "--pair-column", "b", "--input", "f.csv"], "different columns"),
        (["classify", "--model", "m", "--output", "f.npy", "a"], "none of the suffixes .jsonl, .parquet"),
        (["classify", "--model", "m", "--keep", "label", "--input", "f.csv"], "a column 'label' of its own"),
        (["rerank", "--model", "m", "a"], "expected --query"),
        (["rerank", "--model", "m", "--query", "q"], "expected TEXT arguments"),
        (["rerank", "--model", "m", "--query", "q", "--docs-column", "d", "a"], "--docs-column: not with --query"),
        (["rerank", "--model", "m", "--column", "d", "--input", "f.jsonl"], "--column: not with many queries"),
        (["rerank", "--model", "m", "--input", "f.csv"], "JSON Lines or Parquet"),
        (["rerank", "--model", "m", "--query", "q", "--top-k", "0", "a"], "at least 1"),
        (["embed", "--input", "f.json"], "a .json file may be anything"),
        (["embed", "--input", "f.txt", "--column", "a"], "lines have no columns"),
        (["embed", "--input", "f.txt", "--keep", "a"], "lines have no columns"),
        (["embed", "--input", "f.jsonl", "--delimiter", ";"], "--delimiter: not with --format jsonl"),
        (["embed", "--input", "f.csv", "--delimiter", ";;"], "not one character"),
        (["embed", "--input", "f.csv", "--keep", "embedding"], "a column 'embedding' of its own"),
        (["embed", "--input", "f.csv", "--keep", "a", "--output", "f.npy"], "a .npy file has the vectors alone"),
        (["embed", "--format", "csv", "a"], "--format: not with TEXT"),
        (["embed", "--output", "f.txt", "a"], "none of the suffixes .jsonl, .npy, .parquet"),
        (["embed", "--output", "-", "a"], "--output: expected a file"),
        (["embed", "--output", "f.npy", "--npy", "g.npy", "a"], "not allowed with"),
        (["embed", "--prompt", "a", "--prompt-name", "b", "a"], "not allowed with"),
    ],
)
def test_wrong_usage(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert not out and words in err.splitlines()[-1]


def test_models_that_cannot(classifier: str, ranker: str, tmp_path: Path) -> None:
    cases: dict[tuple[str, ...], str] = {
        ("rerank", "--model", classifier, "--query", "q", "a"): "3 labels, expected 1",
        ("classify", "--model", ranker, "--head", "nothing", "a"): "nothing",
        ("embed", "--model", ranker, "--prompt-name", "nothing", "a"): "nothing",
        ("embed", "--model", ranker, "--truncate-dim", "33", "a"): "33",
    }
    for args, words in cases.items():
        status, out, err = run(*args)
        assert (status, out) == (1, "") and err.count("\n") == 1 and words in err, (args, err)
        assert "TEXT 1" not in err  # it is not the text's fault


def test_a_row_that_is_wrong_comes_after_answers(classifier: str, ranker: str) -> None:
    stdin = b'{"text": "a"}\n{"text": "b"}\n{"text": 5}\n'
    status, out, err = run("classify", "--model", classifier, "--format", "jsonl", "-", stdin=stdin)
    assert (status, len(rows_of(out))) == (1, 2)
    assert err == "fastattn: standard input: line 3: 'text' is a number, expected a string\n"
    stdin = b'{"query": "a", "docs": ["b"]}\n{"query": "a", "docs": "b"}\n'
    status, out, err = run("rerank", "--model", ranker, "-", stdin=stdin)
    assert (status, len(rows_of(out))) == (1, 1)
    assert err == "fastattn: standard input: line 2: 'docs' is a string, expected a list of strings\n"


def test_scores_that_are_not_finite(tmp_path: Path) -> None:
    from golden import tiny_bert

    folder = save_task_folder(tmp_path / "model", "sequence_classification", ["LABEL_0"])
    arrays = {f"bert.{key}": array for key, array in tiny_bert.tensors("plain").items()}
    arrays |= {"classifier.weight": np.full((1, 32), 3e38, np.float32), "classifier.bias": np.zeros(1, np.float32)}
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    status, out, err = run("classify", "--model", str(folder), "a", "b")
    assert (status, out) == (1, "") and err.startswith("fastattn: TEXT 1: ") and "finite" in err
