# SPDX-License-Identifier: MIT
"""``fastattn classify``: labels of texts, or of pairs of texts, as JSON lines or Parquet."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import Formatter, add_prompt_options, positive_int
from .inputs import INPUT_NOTE, add_input_options, refuse_options, text_source
from .job import Task, add_length_options, add_model_options, load_model, stream
from .linefiles import Arguments
from .outputs import OUTPUT_NOTE, add_output_options, open_writer, output_format
from .rows import KEEP_NOTE, Reader, Rows, Wanted, kept_types

__all__ = ["add_parser"]

_EPILOG = f"""examples:
  fastattn classify --model distilbert-sst-2 "A delight." "A bore."
  fastattn classify --model nli --all --pair "A man sleeps." "He is awake."
  fastattn classify --model topics --input news.parquet --column body --keep id --output topics.parquet
  fastattn classify --model nli --input pairs.jsonl --column premise --pair-column hypothesis > labels.jsonl

Output: one line {{"text": ..., "label": ..., "score": ...}} per text, in their order, with "text_pair" for pairs; with
--top-k or --all also "labels" and "scores", the best first. Labels are those of the model's config.json. Scores are
probabilities (of labels that exclude each other, or of each by itself, as problem_type says), or a regression's number.

{INPUT_NOTE}
{KEEP_NOTE}
{OUTPUT_NOTE}"""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "classify",
        help="texts, or pairs of texts, to labels",
        description="Texts, or pairs of texts, to labels, by a model with a head for sequence classification.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="texts; - alone reads standard input")
    parser.add_argument("--pair", nargs=2, action="append", metavar=("A", "B"), help="a pair of texts; may come again")
    add_input_options(parser, "texts")
    parser.add_argument("--column", metavar="NAME", help="the column that has the texts (default: text)")
    parser.add_argument("--pair-column", metavar="NAME", help="the column with the second texts of pairs")
    add_output_options(parser)
    add_model_options(parser, default=False)
    add_length_options(parser)
    parser.add_argument("--head", metavar="NAME", help="which of the model's heads (default: the only one that fits)")
    parser.add_argument("--top-k", type=positive_int, metavar="N", help="give the N best labels of each text")
    parser.add_argument("--all", action="store_true", help="give all labels of each text")
    parser.add_argument(
        "--activation", choices=("softmax", "sigmoid", "none"), help="what makes scores (default: as the model says)"
    )
    add_prompt_options(parser, "every text, or the first of a pair")
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.all and arguments.top_k is not None:
        arguments.parser.error("--top-k: not with --all")
    form = output_format(arguments, ("jsonl", "parquet"))
    reader, wanted, characters = _source(arguments)
    try:
        with open_writer(arguments, form, kept_types(reader, wanted)) as writer:
            model = load_model(arguments, characters)
            task = _Classify(arguments, model, wanted)
            writer.begin()
            stream(arguments, reader, wanted, task, writer.write, task=task)
    finally:
        reader.close()
    return 0


def _source(arguments: argparse.Namespace) -> tuple[Reader, Wanted, int | None]:
    if arguments.pair:
        refuse_options(arguments, ("text", "input", "format", "delimiter", "keep", "column", "pair-column"), "--pair")
        first, second = map(list, zip(*arguments.pair, strict=True))
        wanted = Wanted(("text", "text_pair"))
        return Arguments({"text": first, "text_pair": second}, "--pair"), wanted, sum(map(len, first + second))
    columns = {"--column": "text"}
    if arguments.pair_column is not None:
        columns["--pair-column"] = "text_pair"
    return text_source(arguments, columns, ("text", "text_pair", "label", "score", "labels", "scores"))


class _Classify(Task):
    """Rows of texts, or of pairs, to the columns of the output."""

    def __init__(self, arguments: argparse.Namespace, model: Any, wanted: Wanted) -> None:
        import numpy

        super().__init__(arguments, model)
        self._numpy = numpy
        self._classify = model.classify
        self._wanted = wanted
        self._several = arguments.all or arguments.top_k is not None
        top_k = None if arguments.all else arguments.top_k or 1
        names = ("head", "batch_size", "activation", "prompt", "prompt_name")
        self._options = {"top_k": top_k, **{name: getattr(arguments, name) for name in names}}

    def __call__(self, rows: Rows) -> dict[str, Any]:
        numpy = self._numpy
        texts = [rows.columns[name] for name in self._wanted.texts]
        inputs = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
        found = self.call(self._classify, inputs, **self._options)
        score = numpy.array([each.score for each in found], numpy.float32)
        if not numpy.isfinite(score).all():
            raise ValueError("the score is not finite; the weights are damaged")
        columns: dict[str, Any] = dict(zip(("text", "text_pair"), texts, strict=False))
        columns |= {"label": [each.label for each in found], "score": score}
        if self._several:
            columns["labels"] = [list(each.labels) for each in found]
            width = len(found[0].scores) if found else 1
            columns["scores"] = numpy.array([each.scores for each in found], numpy.float32).reshape(-1, width)
        return {**columns, **{name: rows.columns[name] for name in self._wanted.keep}}
