# SPDX-License-Identifier: MIT
"""Text in; vectors, labels, rankings, tokens and answers out: the folder's tokenizer and settings around an encoder.

Needs the ``tokenizers`` library (``pip install fastattn[text]``), which is imported when the first text comes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from ..engine.travel import Origin
from .cutting import TextTooLong
from .encoder import TextEncoder
from .limits import TruncationWarning
from .pipeline import TextPipeline
from .settings import TextSettings
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from ..typing import HeadName, WeightType
    from .decoder import TextDecoder
    from .generation import Generation, Score, Stream
    from .jinjabounds import TemplateError
    from .modeltokenizer import ModelTokenizer
    from .results import Answer, Classification, Ranked, Results, Token, Vectors

__all__ = [
    "Answer", "Classification", "Generation", "ModelTokenizer", "Ranked", "Results", "Score", "Stream", "TemplateError",
    "TextDecoder", "TextEncoder", "TextPipeline", "TextSettings", "TextTokenizer", "TextTooLong", "Token",
    "TruncationWarning", "Vectors", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What few processes need by name is imported when it is asked for: types of results, and decoders."""
    if name == "TextDecoder":
        from .decoder import TextDecoder

        return TextDecoder
    if name in ("Generation", "Score", "Stream"):
        from . import generation

        return getattr(generation, name)
    if name == "TemplateError":
        from .jinjabounds import TemplateError

        return TemplateError
    if name == "ModelTokenizer":
        from .modeltokenizer import ModelTokenizer

        return ModelTokenizer
    if name in ("Answer", "Classification", "Ranked", "Results", "Token", "Vectors"):
        from . import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    path: str | os.PathLike[str],
    dtype: WeightType | None = None,
    num_threads: int | None = None,
    *,
    head: HeadName | str | None = None,
    activations: Literal["int16", "int8"] | None = None,
    strict: bool = True,
    verify: bool = False,
) -> TextEncoder:
    """Load the model at ``path``.

    Parameters
    ----------
    path
        A folder as the Hugging Face hub lays it out (``config.json``, ``model.safetensors`` or shards with their
        index, and for text ``tokenizer.json``), or a ``.safetensors`` or ``.npz`` file with ``config.json`` beside it.
        Or a packed file, as ``fastattn.pack`` writes it, or a ``.gguf`` file, with nothing beside it. Or,
        where there is no such path, the name of a model in the local Hugging Face cache: ``ORG/NAME``, ``NAME`` for
        those of sentence-transformers, and ``@REVISION`` behind it. Nothing is downloaded.
    dtype
        How the weights of linear layers are stored: ``"float32"``; ``"bfloat16"`` or ``"float16"``, half the memory and
        float32 arithmetic; ``"int8"``, a quarter of the memory and integer products of rows quantised as they come;
        an encoder's attention is by integers, too; ``"int4"``, 5 bits a weight in blocks of 32. Everything else between
        the layers is float32. None is ``"float32"`` for encoders; layers of language models keep the bfloat16, float16
        and quantised blocks that the file has (those of Q2_K and Q3_K become float32, which ``model.notes`` says), and
        are float32 where it has anything else. A packed file has a type of its own, which None takes; another one is
        refused.
    num_threads
        Threads of each call of the model; None leaves it to ``set_num_threads`` and its defaults.
    head
        The head on top of the encoder: ``"sequence_classification"``, ``"token_classification"``,
        ``"question_answering"``, ``"masked_lm"``, ``"next_sentence"`` (BERT's), ``"causal_lm"`` (of language models),
        or ``"none"`` for the encoder alone; a class of transformers stands for its head. None is the head whose tensors
        are in the file, whatever ``architectures`` in config.json says; it decides where there are several. Tensors of
        pre-training (a masked language model's) count only where ``architectures`` does not name the encoder. Where the
        tensors fit sequence and token classification, labels like B-PER are of tokens, and all others of sequences. A
        packed file has the head it was packed with.
    activations
        How the inputs of layers of blocks are rounded, of which integer products are taken: ``"int16"`` (None), to 15
        bits in blocks of 32, which gives the answers of the dequantised model; or ``"int8"``, to 7 bits, as other
        engines do it, but for the layer that makes logits, and 1.3 to 1.8 times as fast with many rows. Refused for
        models without blocks.
    strict
        Whether a tensor that the architecture does not know is an error; else it is left out, and ``model.notes`` names
        it.
    verify
        Whether to read all of a packed file and compare its checksums first. Without it, its header is checked, and
        configuration and tokenizer where they are read.

    Returns
    -------
    TextEncoder
        ``model(input_ids, ...)`` gives hidden states, ``model.embed(texts)`` sentence vectors. It may be called from
        many threads at once. Of a language model a ``TextDecoder``, which has ``generate``, ``stream`` and ``score``
        besides, and whose ``rerank`` asks it.

    Raises
    ------
    FileNotFoundError
        No such path, no ``config.json``, no weights.
    ValueError
        The architecture is not supported; the configuration lacks a key or has a value that is not supported; a tensor
        is missing, unknown, or of another shape or dtype; a file is damaged; the head that is asked for is not there,
        or there are several and nothing says which is meant. Files, keys and tensors are named.
    TypeError
        An argument is of the wrong type.

    Example
    -------
    >>> model = fastattn.load("all-MiniLM-L6-v2")                        # doctest: +SKIP
    >>> model([[101, 7592, 2088, 102]]).last_hidden_state.shape          # doctest: +SKIP
    (1, 4, 384)
    """
    from ..graph.source import AS_STORED
    from ..loaders.hubcache import find_model
    from ..models.registry import build, open_source

    where = find_model(path) if isinstance(path, (str, os.PathLike)) else path
    try:
        opened = open_source(where, dtype, num_threads, head=head, activations=activations, strict=strict)
    except FileNotFoundError:
        _refuse_old_layout(where)
        raise
    # Loaded again in a process that may have another working directory.
    stored = None if opened.dtype == AS_STORED else opened.dtype
    options = {"dtype": stored, "head": opened.head, "strict": opened.strict, "activations": opened.activations}
    origin = Origin(load, os.path.abspath(opened.path), options, opened.fingerprint())
    built = build(opened, verify=verify)._replace(origin=origin)
    face = TextEncoder
    if built.family.decoder:
        from .decoder import TextDecoder

        face = TextDecoder
    model = face(built)
    model.add_notes(_side_notes)
    return model


def _side_notes(model: TextEncoder) -> list[str]:
    from .notes import side_notes

    return side_notes(model.files)


def _refuse_old_layout(path: str | os.PathLike[str]) -> None:
    """Say what is wrong with a folder of sentence-transformers that is no transformer, or has it in a folder of its
    own."""
    from ..loaders.files import FolderFiles
    from .chain import refuse_other_models
    from .jsonkeys import read_list

    files = FolderFiles(path)
    if not files.has("modules.json") or files.has("config.json"):
        return
    refuse_other_models(files)
    modules = read_list(files.read_bytes("modules.json"), files.describe("modules.json"))
    first = modules[0].get("path") if modules and isinstance(modules[0], dict) else None
    if isinstance(first, str) and files.has(f"{first}/config.json"):
        raise FileNotFoundError(
            f"{files.describe('modules.json')}: the model is in {first!r}, a layout that sentence-transformers no "
            "longer writes and that is not read; loading and saving it there moves it beside modules.json"
        )
