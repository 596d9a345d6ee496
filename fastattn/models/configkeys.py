# SPDX-License-Identifier: MIT
"""The keys of ``config.json`` that no family asks for: those that change no result, and those that would.

``config.json`` is an open file: every program writes keys of its own into it. A key that a family reads is obeyed; one
that is listed here changes nothing, or is refused where its value would ask for another model; any other is listed in
``model.notes``.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..graph.config import PROBLEM_TYPES, ConfigReader, short

__all__ = ["REFUSED", "WITHOUT_EFFECT", "WITHOUT_EFFECT_IN", "note_keys", "refuse_keys"]

REFUSED: Mapping[str, str] = {
    "is_decoder": "decoders are not supported",
    "is_encoder_decoder": "encoder-decoders are not supported",
    "add_cross_attention": "cross-attention is not supported",
    "pruned_heads": "pruned heads are not supported",
    "quantization_config": "quantised checkpoints are not supported",
    "compression_config": "quantised checkpoints are not supported",
    "per_layer_config": "layers of different sizes are not supported",
    "adapters": "adapters are not merged: merge them into the weights and save the model",
}
"""Keys that ask for another model, unless they are null, false or empty -> what to say of them."""

_BY_REASON = {
    "what wrote the file, and for whom": "_name_or_path name_or_path _commit_hash transformers_version model_type "
    "architectures auto_map tokenizer_class finetuning_task task_specific_params language prefix",
    "read by whoever takes texts": "sentence_transformers sbert_ce_default_activation_function "
    "sbert_ce_default_activation_args function_to_apply",
    "how tensors are stored, and what computes with them": "torch_dtype dtype use_bfloat16 torchscript xla_device "
    "gradient_checkpointing chunk_size_feed_forward attn_implementation _attn_implementation "
    "_attn_implementation_autoset _attn_implementation_internal _experts_implementation_internal tf_legacy_loss "
    "use_flash_attn",
    "training": "initializer_range initializer_factor hidden_dropout_prob attention_probs_dropout_prob "
    "classifier_dropout classifier_dropout_prob hidden_dropout attention_dropout dropout pooler_dropout "
    "router_aux_loss_coef router_jitter_noise",
    "labels, where there is no head that has them": "id2label label2id num_labels _num_labels problem_type",
    "what a call returns besides": "output_attentions output_hidden_states output_past return_dict use_return_dict "
    "use_cache output_router_logits",
    "token ids, which are the tokenizer's": "pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id "
    "mask_token_id unk_token_id",
    "generation, which old versions of transformers wrote into every file": "max_length min_length do_sample "
    "early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty "
    "length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences "
    "output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens decoder_start_token_id "
    "tie_encoder_decoder cross_attention_hidden_size",
}
WITHOUT_EFFECT = frozenset(" ".join(_BY_REASON.values()).split())
"""Keys that change no result of any family."""

_PDROPS = "attn_pdrop embd_pdrop resid_pdrop "
_SUMMARY = "summary_type summary_use_proj summary_activation summary_last_dropout summary_first_dropout "
WITHOUT_EFFECT_IN: Mapping[str, frozenset[str]] = {
    family: frozenset(keys.split())
    for family, keys in {
        "albert": "down_scale_factor gap_size net_structure_type num_memory_blocks",
        # BERT's first release had a larger pooler in mind, which no checkpoint has
        "bert": "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head "
        "pooler_type",
        "deberta-v2": "pooler_hidden_size position_embedding_type",
        "distilbert": "sinusoidal_pos_embds tie_weights_ qa_dropout seq_classif_dropout",
        "electra": _SUMMARY,
        "modernbert": "embedding_dropout mlp_dropout initializer_cutoff_factor reference_compile "
        "deterministic_flash_attn sparse_prediction sparse_pred_ignore_index repad_logits_with_grad layer_norm_eps "
        # rotary positions stand in the place of a table, whatever this says; the others are for files without
        # rope_parameters and layer_types
        "position_embedding_type global_rope_theta local_rope_theta rope_scaling global_attn_every_n_layers",
        # n_ctx is n_positions, of old; scores are of float32 here anyway
        # transformers' own; what turns is rotary_dim
        **dict.fromkeys(
            ("gptj", "codegen"), _SUMMARY + _PDROPS + "summary_proj_to_labels n_ctx rotary scale_attn_weights"
        ),
        "bloom": "pretraining_tp slow_but_exact offset_alibi attention_softmax_in_fp32 bias_dropout_fusion "
        "masked_softmax_fusion skip_bias_add skip_bias_add_qkv",
        # positions are slopes, whatever learned_pos_emb says; the fraction is of gradients
        "mpt": "emb_pdrop resid_pdrop attn_pdrop attn_impl init_device init_config learned_pos_emb embedding_fraction "
        "verbose",
        "opt": "layerdrop init_std",
        "phi": "resid_pdrop embd_pdrop",
        "starcoder2": "residual_dropout embedding_dropout",
        "gpt2": _SUMMARY + _PDROPS + "summary_proj_to_labels n_ctx reorder_and_upcast_attn",
        "cohere": "pretraining_tp",
        # the last two tell of the layers once more, which layer_types or sliding_window_pattern say
        "cohere2": "cache_implementation use_parallel_embedding use_embedding_sharing layer_switch "
        "order_of_interleaved_layers",
        # of before transformers 5, which has two caches of this family, and of files that say layer_types beside
        "gemma2": "cache_implementation",
        "gemma3_text": "cache_implementation _sliding_window_pattern",
        # the first says the head once more; the others are of the models with experts and shared keys
        "hunyuan_v1_dense": "attention_head_dim eod_token_id pretraining_tp im_start_id im_end_id im_newline_id",
        "llama": "pretraining_tp",
        "seed_oss": "pretraining_tp residual_dropout",
        # of training, and of layers behind the last that guess at further tokens
        **dict.fromkeys(
            ("deepseek_v2", "deepseek_v3"),
            "pretraining_tp ep_size aux_loss_alpha seq_aux num_nextn_predict_layers head_dim qk_head_dim",
        ),
        # read where use_sliding_window says so
        **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "smollm3"), "sliding_window"),
        "qwen3_moe": "sliding_window max_window_layers",
        "phi3": "resid_pdrop embd_pdrop original_max_position_embeddings",
        # of the code that LFM2 was first published with; how weights begin
        "lfm2": "block_dim block_norm_eps block_use_swiglu block_mlp_init_scale block_out_init_scale "
        "block_use_xavier_init conv_dim conv_dim_out conv_use_xavier_init num_heads use_pos_enc theta "
        # read where others do not stand in their place
        "full_attn_idxs intermediate_size tie_word_embeddings block_multiple_of block_ffn_dim_multiplier",
        "mamba2": "chunk_size residual_in_fp32 rescale_prenorm_residual time_step_floor time_step_max time_step_min "
        "time_step_rank intermediate_size",
        # of layers of experts, where there are none; what counts layers, beside their list
        "qwen3_next": "moe_intermediate_size num_experts_per_tok decoder_sparse_step mlp_only_layers "
        "norm_topk_prob shared_expert_intermediate_size full_attention_interval",
        "new": "use_memory_efficient_attention unpad_inputs",
        "nomic_bert": _SUMMARY + "attn_pdrop embd_pdrop resid_pdrop fused_bias_fc fused_dropout_add_ln "
        "pad_vocab_size_multiple use_xentropy dense_seq_output "
        # of GPT-2's configuration, from which this one was made
        "scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn parallel_block_tied_norm",
    }.items()
}
"""Keys that change no result of one family, by its ``model_type``."""


_OWN_CODE = ("new", "nomic_bert")  # families that were published with their code


def refuse_keys(config: ConfigReader) -> None:
    """``ValueError`` for a key of ``REFUSED`` that is set."""
    for key, reason in REFUSED.items():
        config.refuse(key, reason)


def note_keys(config: ConfigReader) -> list[str]:
    """Of a file whose model is built: what it says and nobody obeys, a sentence each."""
    notes = []
    family = config.model_type()
    known = WITHOUT_EFFECT | WITHOUT_EFFECT_IN.get(family, frozenset())
    for part in (config, *config.parts.values()):
        unknown = [key for key in part.not_asked() if key not in known and not (key in REFUSED and not part.value(key))]
        if unknown:
            more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
            notes.append(f"{part.path}: unknown key{'s' * (len(unknown) > 1)} {_names(unknown)}{more}")
    if config.has("auto_map") and family not in _OWN_CODE:
        notes.append(f"{config.path}: auto_map names Python code of the folder's own, which is not run")
    named, count = config.value("id2label"), config.value("num_labels")
    if isinstance(named, dict) and count is not None and count != len(named):
        notes.append(f"{config.path}: num_labels is {short(count)}, but id2label has {len(named)} labels")
    problem = config.value("problem_type")
    if problem is not None and problem not in PROBLEM_TYPES:
        notes.append(f"{config.path}: problem_type is {short(problem)}, none of {', '.join(PROBLEM_TYPES)}")
    return notes


def _names(keys: list[str]) -> str:
    return ", ".join(repr(key[:100]) for key in keys[:20])
