# SPDX-License-Identifier: MIT
"""``TextDecoder``: a language model that continues text, says how likely it is, and does what encoders do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..engine.stop import check_deadline, seconds_left
from .encoder import TextEncoder
from .prompted import PromptedDecoder

if TYPE_CHECKING:
    from ..typing import OnLong, TokenIds
    from .generation import Generation, Score, Stream
    from .results import Ranked, Results

__all__ = ["TextDecoder"]


class TextDecoder(PromptedDecoder, TextEncoder):
    """A language model with its weights. Made by ``fastattn.load``; it may be called from many threads at once.

    ``generate`` continues prompts, ``stream`` gives a text as it comes, ``score`` says how likely texts are. Nothing in
    a result depends on the batch it was computed in, on threads, or on the machine: of one prompt, one set of options
    and one seed there is one text.
    """

    def generate(
        self,
        prompts: str | TokenIds | Sequence[str] | Sequence[TokenIds],
        *,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        n: int | None = None,
        seed: int = 0,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        xtc: Mapping[str, float] | Sequence[float] | None = None,
        dry: Mapping[str, Any] | None = None,
        mirostat: int | Mapping[str, float] | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        bad_words: str | Sequence[str | Sequence[int]] | None = None,
        allowed_token_ids: Sequence[int] | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None,
        include_stop_str_in_output: bool = False,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        num_beams: int | None = None,
        length_penalty: float | None = None,
        early_stopping: bool | Literal["never"] | None = None,
        draft: Literal["auto", "prompt_lookup"] | int | None = "auto",
        kv_dtype: str | None = None,
        timeout: float | None = None,
        num_threads: int | None = None,
        **spellings: Any,
    ) -> list[Generation]:
        """Continue prompts.

        None is what generation_config.json of the model says (in GGUF files ``general.sampling.*``), else what
        transformers does: without sampling, the likeliest token, of equally likely ones the lowest id. Tokens are drawn
        with ``do_sample``, with a temperature above 0, with any of ``top_k``, ``top_p``, ``min_p``, ``typical_p``,
        ``xtc`` and ``mirostat``, or where nothing of these is given and the file says so; ``temperature=0`` is greedy.
        First biases and penalties, ``dry`` the last of them, then what may not come; then temperature, top_k (50 if
        nobody says how many), top_p, min_p, typical_p, xtc, each from what the one before it has left; or, in place of
        all from top_k on, mirostat.

        Parameters
        ----------
        prompts
            A text, token ids (t,), or several of either. Texts get the special tokens of the tokenizer.
        max_new_tokens
            Most tokens to generate; None for what the file says, else what is left of the context.
        min_new_tokens
            Tokens before which none may end the text.
        n
            Answers to each prompt, one behind the other; above 1 tokens have to be drawn, or there are so many beams.
        seed
            0 to 2**64 - 1, of the random numbers: Philox4x32-10, counted by answer and token.
        temperature
            What logits are divided by.
        top_k, top_p, min_p
            How many tokens may be drawn; how likely they are together; how likely each is beside the likeliest.
        typical_p
            How likely the tokens are together whose surprise is nearest to the mean one.
        xtc
            (probability, threshold) or a mapping of these: with this probability, of the tokens at least as likely as
            the threshold (0.1), the least likely alone may come; above 0.5 nothing is left out.
        dry
            A mapping. A token that would make a repetition longer, of ``allowed_length`` (2) tokens or more before it,
            loses ``multiplier * base ** (length - allowed_length)`` of its logit (base: 1.75). Repetitions are looked
            for in the last ``penalty_last_n`` (64) tokens, -1 for all, and end at ``sequence_breakers``: strings, ids,
            or lists of ids; where there is a tokenizer, newline, colon, quotation mark and asterisk, if nobody says.
        mirostat
            A version (1 or 2), or a mapping of version, ``tau`` (5.0), the surprise in bits to keep to, and ``eta``
            (0.1), how fast. Beside it no option may be given whose place it takes; those of the file do not count.
        repetition_penalty
            Divides the logits of tokens in prompt and answer where they are positive, and multiplies others.
        presence_penalty, frequency_penalty
            Taken from the logits of tokens in the answer, once and as often as they are there.
        no_repeat_ngram_size
            No so many tokens come twice, in prompt and answer.
        logit_bias
            Token id -> what is added to its logit; -inf for a token that never comes.
        bad_words
            Strings and lists of ids that may not come. A string is its tokens, without special ones, as they are with a
            space before it and without one; other tokens may spell it still.
        allowed_token_ids
            Ids that may come, and no others; the text ends by itself only with ends that are among them.
        stop, stop_token_ids
            What ends the text: strings, which may come in pieces of several tokens, and ids.
        include_stop_str_in_output
            Whether what ended the text is in it.
        ignore_eos
            Whether to go on behind the model's own end.
        logprobs
            How many of the likeliest tokens to tell in the place of each token, with the log-probabilities of all.
        prompt_logprobs
            The same for the tokens of the prompt.
        num_beams
            Above 1 the likeliest texts are searched with so many at a time, as transformers does; then no token is
            drawn, whatever the file says. The ``n`` best are the answers, each with its ``score``.
        length_penalty
            Of beams: the exponent of the number of tokens by which the log-probabilities of a text are divided.
        early_stopping
            Of beams: True to end with the first ``num_beams`` complete texts; False also to end where the best one that
            goes on is now no better than they are; "never" only where it cannot become so.
        draft
            Tokens are guessed from what prompt and text have repeated so far, several at once; where they are right, a
            step gives several tokens. No result depends on it, only how long it takes. "auto": where the text has
            lately repeated itself, and only as long as it pays; "prompt_lookup", or the most tokens to guess at a time:
            wherever the last tokens came before; None: not at all. Beams have no drafts.
        kv_dtype
            How keys and values are kept: "float32" (None), "float16", "bfloat16" or "int8".
        timeout
            Seconds, after which what there is is returned; None for no limit.
        num_threads
            Threads of this call; None for what ``load`` was given.
        spellings
            ``max_tokens``, ``min_tokens``, ``repeat_penalty``, ``stop_strings``, ``num_return_sequences``, ``max_time``
            and, of ``draft``, ``prompt_lookup_num_tokens``: other names of the above.

        Returns
        -------
        list of Generation
            In the order of the prompts.

        Raises
        ------
        ValueError
            An option is out of its range, or excludes another; no token is left that may come; a prompt has no tokens,
            or is longer than the context, or leaves no room for ``max_new_tokens``; an id is outside the vocabulary;
            the model has no language model's head; a string needs a tokenizer that is not there; the file asks
            for what is not supported.
        TypeError
            An argument is of another type, or an option is not known.

        Example
        -------
        >>> model = fastattn.load("SmolLM2-135M-Instruct.Q4_1.gguf")                                # doctest: +SKIP
        >>> model.generate("The capital of France is", max_new_tokens=8, stop=".")[0].text          # doctest: +SKIP
        ' Paris'
        """
        from .generation import generate

        return generate(self, prompts, {
            "max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens, "n": n, "seed": seed,
            "do_sample": do_sample, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
            "typical_p": typical_p, "xtc": xtc, "dry": dry, "mirostat": mirostat,
            "no_repeat_ngram_size": no_repeat_ngram_size, "bad_words": bad_words,
            "allowed_token_ids": allowed_token_ids,
            "repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty, "logit_bias": logit_bias, "stop": stop,
            "stop_token_ids": stop_token_ids, "include_stop_str_in_output": include_stop_str_in_output,
            "ignore_eos": ignore_eos, "logprobs": logprobs, "prompt_logprobs": prompt_logprobs,
            "num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping,
            "draft": draft, "kv_dtype": kv_dtype, "timeout": timeout, "num_threads": num_threads, **spellings,
        })  # fmt: skip

    def stream(self, prompt: str | TokenIds, **options: Any) -> Stream:
        """The text that continues one prompt, as it comes.

        Parameters
        ----------
        prompt
            A text, or token ids (t,).
        options
            Those of ``generate``, but for ``n``.

        Returns
        -------
        Stream
            An iterator of strings, each of whole characters. ``result()`` waits for the rest and gives the
            ``Generation``; ``cancel()`` ends it.

        Raises
        ------
        ValueError, TypeError
            As ``generate`` does; the model has no tokenizer.

        Example
        -------
        >>> for piece in model.stream("Once upon a time", max_new_tokens=40):                       # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        """
        from .generation import Stream

        return Stream(self, prompt, options)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The messages of a chat as the text that the model was made to read.

        The model's chat template is a program in Jinja. It is run as transformers runs it, in jinja2's sandbox, and
        within bounds: 2 million steps, 10 seconds, texts of 4 MiB.

        Parameters
        ----------
        messages
            Mappings with a role and a content: a str, or a list of parts. Arguments of tool calls may be an object, or
            the text of one in JSON.
        tools
            What the model may call: mappings as OpenAI's API has them, with a name, a description and a JSON schema.
        documents
            Mappings with title and text, for models that know what to do with them.
        chat_template
            The name of one of ``model.tokenizer.chat_templates``, or another template in Jinja: of your own program,
            never of somebody who calls it. None is "tool_use" where there are tools and such a one, else "default".
        add_generation_prompt
            Whether what an answer begins with is put behind the last message.
        continue_final_message
            Whether the last message goes on: the text ends with it, and with nothing that would end it.
        chat_template_kwargs
            Further variables of the template, as ``{"enable_thinking": False}``.

        Returns
        -------
        str
            Special tokens are spelled out: ``model.tokenizer.encode(text, add_special_tokens=False)``.

        Raises
        ------
        fastattn.text.TemplateError
            A ``ValueError``: the template is damaged, refuses the messages, fails on them or goes beyond a bound.
        ValueError, TypeError
            The model has no chat template, a message or a tool has another form: the argument is named.
        FileNotFoundError, ImportError
            The model has no tokenizer; jinja2 is not installed (``pip install fastattn[chat]``).

        Example
        -------
        >>> model.apply_chat_template([{"role": "user", "content": "Hello"}])                       # doctest: +SKIP
        '<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n'
        """
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, documents=documents, chat_template=chat_template,
            add_generation_prompt=add_generation_prompt, continue_final_message=continue_final_message,
            options=chat_template_kwargs,
        )  # fmt: skip

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Generation:
        """The answer to the messages of a chat.

        Parameters
        ----------
        messages, tools, documents, chat_template, chat_template_kwargs
            See ``apply_chat_template``.
        options
            Those of ``generate``, but for ``n``.

        Returns
        -------
        Generation
            Its ``message`` is {"role": "assistant", "content": ...}, as it goes behind ``messages``. With ``tools``,
            calls that the model writes in the form of its chat template (of Hermes and Qwen, Llama 3, Mistral,
            DeepSeek, Command R, gpt-oss, GLM, Kimi, LFM2, Jamba, Phi, Granite) are under "tool_calls", and content is
            the rest, None if there is none. Calls that do not parse, and those of other forms, stay in the content.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError, ImportError
            As ``apply_chat_template`` and ``generate`` do.

        Example
        -------
        >>> talk = [{"role": "user", "content": "Why is the sky blue?"}]                            # doctest: +SKIP
        >>> talk.append(model.chat(talk, max_new_tokens=100).message)                               # doctest: +SKIP
        """
        from .chat import chat

        asked = {"documents": documents, "options": chat_template_kwargs}
        return chat(self, messages, tools, chat_template, asked, options)

    def score(
        self,
        texts: str | TokenIds | Sequence[str] | Sequence[TokenIds],
        *,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> list[Score]:
        """How likely texts are.

        Parameters
        ----------
        texts
            A text, token ids (t,), or several of either. Texts get the special tokens of the tokenizer.
        num_threads, timeout
            As ``generate`` takes them.

        Returns
        -------
        list of Score
            ``token_ids``; ``logprobs``, of each token after those before it, None for the first; ``total``, their sum;
            ``perplexity``.

        Raises
        ------
        ValueError, TypeError
            A text has no tokens, or more than the context; an id is outside the vocabulary; the model has no language
            model's head.
        fastattn.DeadlineExceeded
            ``timeout`` has passed.

        Example
        -------
        >>> good, odd = model.score(["The sky is blue.", "The sky is cheese."])                     # doctest: +SKIP
        >>> good.perplexity < odd.perplexity                                                        # doctest: +SKIP
        True
        """
        from .generation import score

        return score(self, texts, num_threads, timeout)

    def rerank(
        self,
        query: str,
        docs: Iterable[str],
        *,
        top_k: int | None = None,
        head: str | None = None,
        activation: Literal["sigmoid", "none"] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        answers: str | int | Sequence[str | int] | None = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        batch_size: int | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> Results[Ranked]:
        """``docs`` in the order in which they answer ``query``, by what the model says when it is asked.

        The model reads a question that holds the query and one document, and the score is a sigmoid of the logit of
        "yes" less that of "no" behind it: the probability of "yes" beside "no". The question is that of the files: the
        chat template "rerank" of a GGUF file, or a chat template for messages of the roles "query" and "document", as
        cross-encoders of sentence-transformers have it, with the answers of their module LogitScore. A model with a
        classification head of one label, or of the labels yes and no, ranks by that.

        Parameters
        ----------
        query
            A text.
        docs
            Texts; see ``TextEncoder``. Of a question that is too long, the document loses tokens.
        top_k
            How many documents to give; None for all.
        head
            Name of one of ``model.heads``.
        activation
            What makes a score of the logits; ``"none"`` leaves them as they are. None does as the folder says.
        prompt, prompt_name
            Where it holds ``{query}`` and ``{document}``, the whole question, special tokens spelled out; else the
            instruction in the place that the files' question has for one. ``prompt_name`` is its name among the
            folder's ``prompts``; None for both is the default one, or what the question has by itself.
        answers
            The token that says yes, and the one that says no, as text or ids; one alone is scored by its logit. None is
            what the folder says, else "yes" and "no".
        max_length, on_long, batch_size, num_threads, timeout
            See ``TextEncoder``.

        Returns
        -------
        list of Ranked
            (index, score) of documents, the best first; of equal scores the first document.

        Raises
        ------
        TypeError, ValueError, fastattn.DeadlineExceeded, FileNotFoundError, ImportError
            See ``TextEncoder``. ``ValueError`` too where nothing says what to ask, an answer is no single token, or the
            model has neither of the heads.

        Example
        -------
        >>> model = fastattn.load("Qwen3-Reranker-0.6B.gguf")                                       # doctest: +SKIP
        >>> model.rerank("How tall is it?", ["It opened in 1889.", "It is 330 m tall."])[0].index   # doctest: +SKIP
        1
        >>> ask = "Query: {query}\\nPassage: {document}\\nIs it relevant? Answer:"                 # doctest: +SKIP
        >>> chat = fastattn.load("SmolLM2-135M-Instruct.Q4_1.gguf")                                 # doctest: +SKIP
        >>> chat.rerank("How tall is it?", docs, prompt=ask, answers=(" Yes", " No"))               # doctest: +SKIP
        """
        return self.pipeline.rerank_by_answers(
            query, docs, top_k=top_k, head=head, activation=activation, prompt=prompt, prompt_name=prompt_name,
            answers=answers, max_length=max_length, on_long=on_long, batch_size=batch_size, num_threads=num_threads,
            timeout=timeout,
        )  # fmt: skip

    def _warm_texts(self, deadline: int) -> None:
        if "logits" not in self.graph.trace.outputs:
            super()._warm_texts(deadline)
        elif self.max_positions > 1:
            self.generate([0], max_new_tokens=1, timeout=seconds_left(deadline))
            check_deadline(deadline)
            if self.has_tokenizer:
                self.tokenizer.encode("a")
