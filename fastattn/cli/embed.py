# SPDX-License-Identifier: MIT
"""``fastattn embed``: texts to sentence vectors, as JSON lines, .npy or Parquet."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import Formatter, add_prompt_options, positive_int
from .inputs import INPUT_NOTE, add_input_options, text_source
from .job import Task, add_length_options, add_model_options, load_model, stream
from .outputs import OUTPUT_NOTE, add_output_options, open_writer, output_format
from .rows import KEEP_NOTE, Rows, Wanted, kept_types

__all__ = ["add_parser"]

_EPILOG = f"""examples:
  fastattn embed "A sentence." "Another one."
  fastattn embed --npy vectors.npy --input sentences.txt
  fastattn embed --input articles.csv --column body --keep id,url --output vectors.parquet
  cat sentences.txt | fastattn embed - > vectors.jsonl

Output: one line {{"text": ..., "embedding": [...]}} per text, in their order; the numbers have the nine digits that
give back the float32 exactly. In a .npy file: a float32 array (texts, width). In a Parquet file: columns text and
embedding (fixed-size lists).

{INPUT_NOTE}
{KEEP_NOTE}
{OUTPUT_NOTE}"""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "embed",
        help="texts to sentence vectors",
        description="Texts to sentence vectors, with the model's own tokenizer, pooling and normalisation.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="texts; - alone reads standard input")
    add_input_options(parser, "texts")
    parser.add_argument("--column", metavar="NAME", help="the column that has the texts (default: text)")
    add_output_options(parser, "the vectors")
    add_model_options(parser, default=True)
    add_length_options(parser)
    parser.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="length 1 or not (default: as the model says)"
    )
    parser.add_argument("--truncate-dim", type=positive_int, metavar="N", help="keep the first N numbers of a vector")
    add_prompt_options(parser, "every text")
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    form = output_format(arguments, ("jsonl", "npy", "parquet"))
    if form == "npy" and arguments.keep:
        arguments.parser.error("--keep: a .npy file has the vectors alone; use --output FILE.jsonl or FILE.parquet")
    reader, wanted, characters = text_source(arguments, {"--column": "text"}, ("text", "embedding"))
    try:
        with open_writer(arguments, form, kept_types(reader, wanted)) as writer:
            model = load_model(arguments, characters)
            task = _Embed(arguments, model, wanted)
            writer.begin()
            stream(arguments, reader, wanted, task, writer.write, task=task)
    finally:
        reader.close()
    return 0


class _Embed(Task):
    """Rows of texts to the columns of the output."""

    def __init__(self, arguments: argparse.Namespace, model: Any, wanted: Wanted) -> None:
        import numpy

        super().__init__(arguments, model)
        self._is_finite = numpy.isfinite
        self._embed = model.embed
        self._wanted = wanted
        names = ("batch_size", "normalize", "truncate_dim", "prompt", "prompt_name")
        given = {name: getattr(arguments, name) for name in names}
        self._options = {"progress": False, **{name: value for name, value in given.items() if value is not None}}

    def __call__(self, rows: Rows) -> dict[str, Any]:
        texts = rows.columns[self._wanted.texts[0]]
        vectors = self.call(self._embed, texts, **self._options)
        if not self._is_finite(vectors).all():
            raise ValueError("the vector is not finite; the weights are damaged")
        return {"text": texts, "embedding": vectors, **{name: rows.columns[name] for name in self._wanted.keep}}
