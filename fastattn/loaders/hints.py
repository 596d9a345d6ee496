# SPDX-License-Identifier: MIT
"""What to tell somebody whose files are not what is read here: what they are, and the command that helps."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .files import FolderFiles, ModelFiles

__all__ = [
    "PICKLED_SUFFIXES", "foreign_content", "missing_tokenizer_hint", "no_weights_message", "pickled_message",
    "static_embedding_message", "unreadable_format",
]  # fmt: skip

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_ORIGINAL = "load the folder it was made from, which has model.safetensors"

# Suffix of a file of weights that is not read -> what it is, and what to do.
_FORMATS = {
    ".onnx": f"an ONNX graph has lost the model's own names and is not read; {_ORIGINAL}",
    ".xml": f"an OpenVINO model has lost the model's own names and is not read; {_ORIGINAL}",
    ".tflite": f"a TensorFlow Lite model is not read; {_ORIGINAL}",
    ".h5": "TensorFlow weights are not read. Convert them once, in an environment with transformers 4, torch and "
    "tensorflow: AutoModel.from_pretrained(folder, from_tf=True).save_pretrained(new_folder); copy the tokenizer files "
    "beside it",
    ".msgpack": "Flax weights are not read. Convert them once, in an environment with transformers 4, torch and flax: "
    "AutoModel.from_pretrained(folder, from_flax=True).save_pretrained(new_folder); copy the tokenizer files beside it",
}


def pickled_message(path: Path) -> str:
    """What to tell a user whose weights at ``path`` are pickled."""
    return (
        f"{path}: pickled weights can run any code when they are loaded, so they are not read. Convert them once, "
        "in an environment with transformers: AutoModel.from_pretrained(folder).save_pretrained(new_folder, "
        "safe_serialization=True) writes model.safetensors; copy the tokenizer files beside it"
    )


def foreign_content(start: bytes) -> str | None:
    """What a file that should have been another begins like; None where nothing is known of it.

    >>> foreign_content(b"version https://git-lfs.github.com/spec/v1")[:20]
    'a pointer of Git LFS'
    """
    if not start:
        return "an empty file: the download or the copy was cut off, get it again"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of the file: `git lfs install && git lfs pull` in the clone brings it"
    text = start[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return "a web page that was saved instead of the file: get it again, by its download link or `hf download`"
    if start.startswith(b"GGUF"):
        return "a GGUF file under another name: give it one that ends in .gguf"
    if start.startswith(b"\x89HDF"):
        return _FORMATS[".h5"]
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return "pickled or zipped weights under another name, as torch.save writes them: they can run any code"
    return None


def unreadable_format(suffix: str) -> str | None:
    """What a file of weights with this suffix is, where it is of a kind that is not read; None for unknown ones."""
    return _FORMATS.get(suffix)


def no_weights_message(folder: Path, names: Collection[str]) -> str | None:
    """What a folder of these ``names`` has instead of weights that are read; None where it has nothing of the kind."""
    if "model.bin" in names and any("vocabulary" in name for name in names):
        return f"{folder / 'model.bin'}: a model of CTranslate2 is not read; {_ORIGINAL}"
    if "openvino_model.xml" in names:
        return f"{folder / 'openvino_model.xml'}: {_FORMATS['.xml']}"
    for name in sorted(names):
        # training_args.bin and its like lie beside weights too: only names that say "weights" get the advice
        if name.endswith(PICKLED_SUFFIXES) and name.startswith(("pytorch_model", "model", "consolidated")):
            return pickled_message(folder / name)
    for name in sorted(names):
        suffix = Path(name).suffix
        if suffix in _FORMATS and suffix != ".xml":
            return f"{folder / name}: {_FORMATS[suffix]}"
    for below, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        place = folder / below
        inside = sorted(place.glob(f"*{suffix}")) if below in names and place.is_dir() else []
        if inside:
            return f"{inside[0]}: {_FORMATS[suffix]}"
    return None


def static_embedding_message(where: str) -> str:
    """What to tell a user whose folder, as messages call it, has a table of token vectors and no encoder."""
    return (
        f"{where}: static embeddings (model2vec, StaticEmbedding of sentence-transformers): a table of token vectors "
        "without an encoder, which is not supported; sentence-transformers loads it"
    )


# What a folder has instead of tokenizer.json -> what it is, and what has to be installed to convert it.
_VOCABULARIES = (
    (("vocab.json", "merges.txt"), "a byte pair vocabulary", "transformers"),
    (("vocab.txt",), "a WordPiece vocabulary", "transformers"),
    *(
        ((name,), "a SentencePiece model", "transformers sentencepiece protobuf")
        for name in ("sentencepiece.bpe.model", "spiece.model", "spm.model", "sentencepiece.model")
    ),
    (("tiktoken.model",), "a tiktoken vocabulary", "transformers tiktoken"),
    (("tekken.json",), "a Tekken vocabulary", "transformers mistral-common"),
    (("tokenizer.model",), "a SentencePiece or tiktoken model", "transformers sentencepiece protobuf tiktoken"),
)


def missing_tokenizer_hint(files: ModelFiles) -> str:
    """What to do about a model without tokenizer.json: a clause that follows what is wrong.

    Example
    -------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> missing_tokenizer_hint(FolderFiles(folder))[:52]
    'there is no other vocabulary either: the tokenizer.j'
    >>> _ = (folder / "spiece.model").write_bytes(b"")
    >>> missing_tokenizer_hint(FolderFiles(folder))[:44]
    'spiece.model is a SentencePiece model, which'
    """
    for names, what, packages in _VOCABULARIES:
        if all(files.has(name) for name in names):
            return _convert(" and ".join(names), "are" if len(names) > 1 else "is", what, packages)
    for name in files.names() if isinstance(files, FolderFiles) else ():
        if name.endswith(".tiktoken"):
            return _convert(name, "is", "a tiktoken vocabulary", "transformers tiktoken")
    for name, other in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
        if files.has(name):
            return (
                f"{name} is half of a byte pair vocabulary: get {other} too, or tokenizer.json, from where it came from"
            )
    return (
        "there is no other vocabulary either: the tokenizer.json of the model it was trained from belongs into the "
        "folder; `hf download ORG/NAME tokenizer.json --local-dir FOLDER` fetches one"
    )


def _convert(names: str, verb: str, what: str, packages: str) -> str:
    return (
        f"{names} {verb} {what}, which has to be converted once (pip install {packages}): "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers writes tokenizer.json"
    )
