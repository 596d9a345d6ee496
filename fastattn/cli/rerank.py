# SPDX-License-Identifier: MIT
"""``fastattn rerank``: documents in the order in which they answer a query, for one query or for many."""

from __future__ import annotations

import argparse
import heapq
from typing import Any

from ..loaders.newfile import named_errors
from .arguments import Formatter, add_prompt_options, positive_int
from .inputs import (
    INPUT_NOTE,
    add_input_options,
    input_format,
    open_reader,
    refuse_options,
    text_source,
    wanted_columns,
)
from .job import Task, add_length_options, add_model_options, load_model, stream
from .outputs import OUTPUT_NOTE, add_output_options, open_writer, output_format, output_name
from .rows import KEEP_NOTE, Reader, Rows, Wanted, kept_types

__all__ = ["add_parser"]

_EPILOG = f"""examples:
  fastattn rerank --model ms-marco-MiniLM --query "How tall is it?" "It is 330 m tall." "It opened in 1889."
  fastattn rerank --model ms-marco-MiniLM --query "How tall is it?" --input passages.csv --column body --top-k 10
  fastattn rerank --model ms-marco-MiniLM --input queries.jsonl --top-k 3 --output ranked.jsonl

Output for --query: one line {{"index": ..., "score": ..., "text": ...}} per document, the best first; index counts the
documents of the input from 0. With --top-k no more than so many are in memory. Without --query each row of the input
has a query and a list of documents, {{"query": ..., "docs": [...]}}, and is answered by a line of its own,
{{"query": ..., "results": [{{"index": ..., "score": ..., "text": ...}}, ...]}}.

{INPUT_NOTE}
{KEEP_NOTE}
{OUTPUT_NOTE}"""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "rerank",
        help="documents in the order in which they answer a query",
        description="Documents in the order in which they answer a query, by a cross-encoder, or by a language model "
        "that is asked: --prompt is its instruction or, with {query} and {document} in it, the whole question.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("text", nargs="*", metavar="DOC", help="documents; - alone reads standard input")
    parser.add_argument("--query", metavar="TEXT", help="what the documents are to answer")
    add_input_options(parser, "documents, or without --query rows of a query and documents,")
    parser.add_argument("--column", metavar="NAME", help="with --query: the column that has the documents (text)")
    parser.add_argument("--query-column", metavar="NAME", help="without --query: the column of queries (query)")
    parser.add_argument(
        "--docs-column", metavar="NAME", help="without --query: the column of lists of documents (docs)"
    )
    add_output_options(parser)
    add_model_options(parser, default=False)
    add_length_options(parser)
    parser.add_argument("--head", metavar="NAME", help="which of the model's heads (default: the only one that fits)")
    parser.add_argument("--top-k", type=positive_int, metavar="N", help="give the N best documents (default: all)")
    parser.add_argument(
        "--activation", choices=("sigmoid", "none"), help="what makes a score (default: as the model says)"
    )
    add_prompt_options(parser, "the query")
    parser.add_argument(
        "--yes", metavar="TOKEN", help="of a language model: the token that says yes (default: as the model says)"
    )
    parser.add_argument("--no", metavar="TOKEN", help="the one that says no; without it, yes alone is scored")
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    form = output_format(arguments, ("jsonl", "parquet"))
    if arguments.no is not None and arguments.yes is None:
        arguments.parser.error("--no: expected with --yes")
    characters: int | None = None
    if arguments.query is None:
        reader, wanted = _queries(arguments)
    else:
        refuse_options(arguments, ("query-column", "docs-column"), "--query")
        reader, wanted, characters = text_source(arguments, {"--column": "text"}, ("index", "score", "text"))
        characters = None if characters is None else characters + len(arguments.query)
        _check_query(arguments.query)
    try:
        with open_writer(arguments, form, kept_types(reader, wanted)) as writer:
            model = load_model(arguments, characters)
            if arguments.query is None:
                task = _Queries(arguments, model, wanted)
                writer.begin()
                stream(arguments, reader, wanted, task, writer.write, "queries", task=task)
            else:
                best = _Best(arguments, model, wanted)
                stream(arguments, reader, wanted, best.scores, best.add, "documents", task=best)
                writer.begin()
                with named_errors(output_name(arguments)):
                    writer.write(best.columns())
    finally:
        reader.close()
    return 0


def _queries(arguments: argparse.Namespace) -> tuple[Reader, Wanted]:
    refuse_options(arguments, ("column",), "many queries; --docs-column names the lists of documents")
    if arguments.input is None and arguments.text != ["-"]:
        arguments.parser.error("expected --query TEXT, or --input FILE (or -) with rows of a query and its documents")
    if arguments.input is not None and arguments.text:
        arguments.parser.error("DOC: not with --input")
    if arguments.format is None and input_format(arguments) == "lines":
        arguments.format = "jsonl"
    if input_format(arguments) not in ("jsonl", "parquet"):
        arguments.parser.error("--input: rows of a query and a list of documents are JSON Lines or Parquet")
    columns = {"--query-column": "query"}, {"--docs-column": "docs"}
    wanted = wanted_columns(arguments, columns[0], ("query", "results"), columns[1])
    return open_reader(arguments, wanted), wanted


def _check_query(query: str) -> None:
    try:
        query.encode()
    except UnicodeEncodeError:
        raise ValueError("--query: not UTF-8") from None


class _Best(Task):
    """The documents of one query with the highest scores, the first of those with the same."""

    def __init__(self, arguments: argparse.Namespace, model: Any, wanted: Wanted) -> None:
        super().__init__(arguments, model)
        self._rerank = model.rerank
        self._query = arguments.query
        self._options = _options(arguments, model)
        self._wanted = wanted
        self._top_k: int | None = arguments.top_k
        self._heap: list[tuple[float, int, tuple[Any, ...]]] = []

    def scores(self, rows: Rows) -> dict[str, Any]:
        """The columns of the rows with their scores."""
        texts = rows.columns[self._wanted.texts[0]]
        found: list[float] = [0.0] * len(texts)
        for index, score in self.call(self._rerank, self._query, texts, **self._options):
            found[index] = _finite(score)
        kept = [rows.columns[name] for name in self._wanted.keep]
        return {"index": rows.indices, "score": found, "rest": list(zip(texts, *kept, strict=True))}

    def add(self, columns: dict[str, Any]) -> None:
        """Keeps the best of these and of those before."""
        for index, score, rest in zip(*columns.values(), strict=True):
            entry = (score, -index, rest)  # no two have the same index: what follows is never compared
            if self._top_k is None or len(self._heap) < self._top_k:
                heapq.heappush(self._heap, entry)
            elif entry > self._heap[0]:
                heapq.heapreplace(self._heap, entry)

    def columns(self) -> dict[str, Any]:
        """The columns of the output, the best first."""
        import numpy

        found = sorted(self._heap, reverse=True)
        rest = list(zip(*(entry[2] for entry in found), strict=True)) or [()] * (1 + len(self._wanted.keep))
        return {
            "index": [-entry[1] for entry in found],
            "score": numpy.array([entry[0] for entry in found], numpy.float32),
            **{name: list(column) for name, column in zip(("text", *self._wanted.keep), rest, strict=True)},
        }


class _Queries(Task):
    """Rows of a query and its documents to the columns of the output."""

    def __init__(self, arguments: argparse.Namespace, model: Any, wanted: Wanted) -> None:
        super().__init__(arguments, model)
        self._rerank = model.rerank
        self._options = {"top_k": arguments.top_k, **_options(arguments, model)}
        self._wanted = wanted
        self.call(self._rerank, "", [], **self._options)  # an option that is wrong fails here, not at the first row

    def __call__(self, rows: Rows) -> dict[str, Any]:
        queries, lists = rows.columns[self._wanted.texts[0]], rows.columns[self._wanted.lists[0]]
        kept = {name: rows.columns[name] for name in self._wanted.keep}
        return {"query": queries, "results": list(map(self._ranked, queries, lists)), **kept}

    def _ranked(self, query: str, docs: list[str]) -> list[dict[str, Any]]:
        # nine digits give back a float32
        return [
            {"index": index, "score": float(f"{_finite(score):.9g}"), "text": docs[index]}
            for index, score in self.call(self._rerank, query, docs, **self._options)
        ]


def _options(arguments: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Keywords of ``rerank`` that its options have."""
    names = ("head", "batch_size", "activation", "prompt", "prompt_name")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.yes is not None:
        if not hasattr(model, "generate"):
            raise ValueError("--yes: the model is no language model, which alone are asked")
        options["answers"] = [token for token in (arguments.yes, arguments.no) if token is not None]
    return options


def _finite(score: float) -> float:
    if score - score != 0:
        raise ValueError("the score is not finite; the weights are damaged")
    return score
