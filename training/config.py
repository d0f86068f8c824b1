"""The demo model's shape: the 12B's proportions at 10 million parameters."""

SLIDING_WINDOW = 128


def model_config(vocab_size, ids):
    layer_types = (["sliding_attention"] * 5 + ["full_attention"]) * 2
    return {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "model_type": "gemma4_unified",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": ids["<|image|>"],
        "audio_token_id": ids["<|audio|>"],
        "video_token_id": ids["<|video|>"],
        "boi_token_id": ids["<|image>"],
        "eoi_token_id": ids["<image|>"],
        "boa_token_id": ids["<|audio>"],
        "eoa_token_index": ids["<audio|>"],
        "vision_config": None,
        "audio_config": None,
        "text_config": {
            "model_type": "gemma4_unified_text",
            "vocab_size": vocab_size,
            "hidden_size": 256,
            "intermediate_size": 640,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_global_key_value_heads": 1,
            "head_dim": 64,
            "global_head_dim": 128,
            "attention_k_eq_v": True,
            "num_kv_shared_layers": 0,
            "sliding_window": SLIDING_WINDOW,
            "layer_types": layer_types,
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size_per_layer_input": 0,
            "rms_norm_eps": 1e-06,
            "final_logit_softcapping": 30.0,
            "max_position_embeddings": 8192,
            "use_bidirectional_attention": "vision",
            "tie_word_embeddings": True,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
    }


GENERATION_CONFIG = {"bos_token_id": 2, "do_sample": True, "eos_token_id": [1, 106, 50], "pad_token_id": 0, "temperature": 1.0, "top_k": 64, "top_p": 0.95}

TOKENIZER_CONFIG = {
    "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
    "tokenizer_class": "GemmaTokenizer", "padding_side": "left", "clean_up_tokenization_spaces": False, "model_max_length": 8192,
}
