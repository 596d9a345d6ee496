# SPDX-License-Identifier: MIT
"""Documents ranked by a language model: by what it answers when it is asked, or by a head of labels on its last token.

The question is made of a template: one that the files have, or one that is given. The score is the logit of the token
that says yes, less the logit of the one that says no, behind the last token of the question.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .batches import as_count, check_text, run_sorted, windows
from .chain import MODULES_JSON, logit_score_folder
from .classifier import asked, best_first, find_head, finish, output_of
from .classifier import rerank as rerank_pairs
from .jsonkeys import OptionalJson
from .modeltokenizer import chat_templates
from .pairtemplate import PairTemplate
from .results import Ranked, Results
from .sidefiles import LOGIT_SCORE, check_keys, object_at, sentence_bert
from .stconfig import StConfig, check_task
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from ..calllog import CallLog
    from ..engine.encoder import Encoder
    from ..graph.heads import Head
    from ..typing import OnLong
    from .limits import Limit
    from .tokenizer import TextTokenizer, Tokens

__all__ = ["rerank_by_answers"]

_LOGITS = 1 << 22  # numbers of logits that are in memory together
_SPOKEN = ("yes", "no")


def rerank_by_answers(
    model: Encoder,
    tokenizer: TextTokenizer,
    query: str,
    docs: Iterable[str],
    *,
    head: str | None,
    answers: Any,
    top_k: int | None,
    activation: str | None,
    prompt: str | None,
    prompt_name: str | None,
    max_length: int | None,
    on_long: OnLong,
    batch_size: int | None,
    num_threads: int | None,
    log: CallLog | None = None,
    deadline: int = 0,
) -> Results[Ranked]:
    """See ``TextDecoder.rerank``."""
    config = _config(model)
    labelled = _labels_of(model, head)
    words = check_text(config.prompt(prompt, prompt_name), "prompt")
    own = PairTemplate.read(words) if "{document}" in words else None
    template = own or _template(model, labelled is not None)
    ids = _answer_ids(model, tokenizer, answers, labelled)
    if template is None and labelled is not None and labelled.outputs == 1:
        return rerank_pairs(
            model, tokenizer, query, docs, head=head, top_k=top_k, activation=activation, prompt=prompt,
            prompt_name=prompt_name, max_length=max_length, on_long=on_long, batch_size=batch_size,
            num_threads=num_threads, log=log, deadline=deadline,
        )  # fmt: skip
    instruction = "" if own is not None else words
    if instruction and template is not None and not template.takes_instruction:
        raise ValueError(
            "prompt: expected a text with {query} and {document}: the model's template has no place for an instruction"
        )
    kept, most = as_count(top_k, "top_k"), as_count(batch_size, "batch_size")
    how = asked(activation, config.activation or "sigmoid", ("sigmoid", "none"))
    check_text(query, "query")
    if isinstance(docs, (str, bytes)):
        raise TypeError(f"docs: got one {type(docs).__name__}; pass a list of str, as in rerank(query, [text])")
    output, together = _output(model, labelled, ids)
    most = together if most is None else min(most, together)
    limit = tokenizer.limit(max_length, on_long, "docs", deadline)
    tokenizer.check_cost(query, "query", deadline)
    found: list[Any] = []
    for window in windows(docs, check_text, "docs", log, deadline):
        scores = np.zeros((len(window), 1), np.float32)
        tokens = _tokens(tokenizer, template, query, instruction, window, limit)
        for rows, _, made in run_sorted(model, [output], tokens, most, num_threads, log, deadline=deadline):
            scores[rows] = made[output]
        found.append(finish(scores, how, model.num_threads if num_threads is None else num_threads))
    limit.warn()
    if not found:
        return Results()
    whole = np.concatenate(found)[:, 0]
    return Results([Ranked(int(i), float(whole[i])) for i in best_first(whole)[:kept]], limit.cut)


def _tokens(
    tokenizer: TextTokenizer, template: PairTemplate | None, query: str, instruction: str, docs: list[str], limit: Limit
) -> list[Tokens]:
    """Of each document those of the whole question, without special tokens around it; or of a pair of texts."""
    if template is None:
        return tokenizer.encode_many([(instruction + query, text) for text in docs], limit)
    before, after = template.around(query, instruction)
    return tokenizer.encode_between(before, docs, after, limit)


def _config(model: Encoder) -> StConfig:
    """What the folder says about prompts and scores. Prompts of a model for vectors are for these alone."""
    config = StConfig.read(model.files)
    ranks = not model.files.has(MODULES_JSON) or logit_score_folder(model.files) is not None
    if config.model_type == "CrossEncoder" or (config.model_type is None and ranks):
        return config
    return StConfig(model_type=config.model_type, activation=config.activation)


# ---- which answers ---------------------------------------------------------------------------------------------------


def _labels_of(model: Encoder, name: Any) -> Head | None:
    """The head of labels that ranks; None for a language model's own."""
    if name is not None and isinstance(name, str) and name in model.heads and model.heads[name].kind == "causal_lm":
        return None
    found = find_head(model, "sequence_classification", name, required="causal_lm" not in model.heads)
    if found is not None and found.outputs != 1 and sorted(map(str.lower, found.labels)) != sorted(_SPOKEN):
        raise ValueError(
            f"{model.path}: the head has {found.outputs} labels, expected 1, or the labels yes and no (classify takes "
            "pairs for any head)"
        )
    return found


def _answer_ids(
    model: Encoder, tokenizer: TextTokenizer, answers: Any, labelled: Head | None
) -> tuple[int, int | None]:
    """The ids of yes and no: tokens, or labels of a head; None where there is no no."""
    if labelled is not None:
        if answers is not None:
            raise ValueError("answers: expected None: the model has a head that ranks, and is not asked")
        if labelled.outputs == 1:
            return 0, None
        labels = [label.lower() for label in labelled.labels]
        return labels.index("yes"), labels.index("no")
    if answers is None:
        said = _logit_score(model)
        if said is not None:
            return said
    several = _SPOKEN if answers is None else (answers,) if isinstance(answers, (str, int)) else answers
    if not isinstance(several, (tuple, list)) or not 1 <= len(several) <= 2:
        raise TypeError(f"answers: got {type(answers).__name__}, expected one token or two: that of yes, that of no")
    ids = [_token(model, tokenizer, one) for one in several]
    return ids[0], ids[1] if len(ids) > 1 else None


def _token(model: Encoder, tokenizer: TextTokenizer, token: Any) -> int:
    if isinstance(token, bool) or not isinstance(token, (str, int)):
        raise TypeError(f"answers: expected tokens or their ids, got {type(token).__name__}")
    if isinstance(token, int):
        if not 0 <= token < model.vocab_size:
            raise ValueError(f"answers: got {token}, expected ids below {model.vocab_size}")
        return token
    ids = tokenizer.plain_ids(check_text(token, "answers"))
    if len(ids) != 1:
        raise ValueError(
            f"answers: {token[:40]!r} is {len(ids)} tokens of {model.files.describe('tokenizer.json')}, expected one, "
            "that the model answers with"
        )
    return ids[0]


def _logit_score(model: Encoder) -> tuple[int, int | None] | None:
    """The ids that a module LogitScore of the folder names."""
    files = model.files
    folder = logit_score_folder(files)
    if folder is None:
        return None
    check_task(sentence_bert(files), "text-generation", "logits", "causal_logits")
    name = f"{folder}/config.json"
    if not files.has(name):
        raise FileNotFoundError(f"{files.describe(name)}: modules.json names this module, but it does not exist")
    config = OptionalJson(files, name)
    check_keys(config.values, LOGIT_SCORE, config.path, closed=True)
    config.choice("module_input_name", ("causal_logits",))
    ids = [config.values.get(key) for key in ("true_token_id", "false_token_id")]
    for key, token in zip(("true_token_id", "false_token_id"), ids, strict=True):
        if (token is None and key == "true_token_id") or not (token is None or _is_id(token, model.vocab_size)):
            raise config.wrong(key, f"an id below {model.vocab_size}")
    return ids[0], ids[1]  # type: ignore[return-value]


def _is_id(token: Any, count: int) -> bool:
    return type(token) is int and 0 <= token < count


# ---- the question ----------------------------------------------------------------------------------------------------


def _template(model: Encoder, labelled: bool) -> PairTemplate | None:
    """That of the files; None where the two texts are a pair for the tokenizer."""
    files = model.files
    templates = chat_templates(files, TokenizerConfig(files, sentence_bert(files)))
    for name in ("rerank", "default"):
        found = PairTemplate.read(templates[name]) if name in templates else None
        if found is not None:
            return found
    if "rerank" in templates:
        raise ValueError(
            f"{files.describe()}: the chat template 'rerank' is not one that is read here (text with {{query}} and "
            "{document}); prompt= takes such a text"
        )
    ways = object_at(sentence_bert(files), "modality_config").values
    if "message" in ways:
        raise ValueError(
            f"{files.describe()}: the chat template is not one that is read here: text with the content of messages of "
            "the roles query and document; prompt= takes a text with {query} and {document} instead"
        )
    if labelled or ways or (logit_score_folder(files) is not None and not templates):
        return None
    raise ValueError(
        f"{files.describe()}: nothing says how the model is asked about a query and a document: there is no chat "
        "template for them; expected prompt=, a text with {query} and {document}, and answers= where the model does "
        "not say 'yes' and 'no' (of an embedding model, embed and a dot product rank documents)"
    )


# ---- the score -------------------------------------------------------------------------------------------------------


def _output(model: Encoder, labelled: Head | None, ids: tuple[int, int | None]) -> tuple[str, int]:
    """The output of ``model`` that is scores (n, 1), and how many sequences may go through it together."""
    if labelled is not None and labelled.outputs == 1:
        return output_of(model, labelled), 1 << 31
    head = model.heads["causal_lm"] if labelled is None else labelled
    yes, no = ids

    def steps() -> Any:
        graph, hidden = model.graph, model.graph.trace.outputs["hidden"]
        spoken = labelled is None
        logits = head.record_on(graph, graph.last(hidden, None)) if spoken else head.record(graph, hidden)
        score = logits.columns(yes, 1)
        return score if no is None else score + graph.scale(logits.columns(no, 1), -1.0)

    together = max(1, _LOGITS // head.outputs)
    return model.record(f"answer.{head.kind}.{yes}.{no}", steps), together
