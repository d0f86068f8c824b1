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
        "vision_config": {"model_type": "gemma4_unified_vision", "patch_size": 16, "pooling_kernel_size": 3, "model_patch_size": 48, "mm_embed_dim": 128, "mm_posemb_size": 1120, "output_proj_dims": 128,
                          "num_soft_tokens": 70, "rms_norm_eps": 1e-06},
        "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 640, "audio_samples_per_token": 640, "hidden_size": 640, "output_proj_dims": 640, "rms_norm_eps": 1e-06},
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

IMAGE = {"do_convert_rgb": True, "do_normalize": False, "do_rescale": True, "do_resize": True, "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0], "max_soft_tokens": 70, "model_patch_size": 48,
         "patch_size": 16, "pooling_kernel_size": 3, "resample": 3, "rescale_factor": 1 / 255}

PROCESSOR_CONFIG = {
    "processor_class": "Gemma4UnifiedProcessor",
    "audio_ms_per_token": 40, "audio_seq_length": 750, "image_seq_length": 70,
    "image_processor": {**IMAGE, "image_processor_type": "Gemma4UnifiedImageProcessor"},
    "video_processor": {**IMAGE, "do_normalize": True, "do_sample_frames": True, "num_frames": 32, "video_processor_type": "Gemma4UnifiedVideoProcessor"},
    "feature_extractor": {"feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor", "audio_samples_per_token": 640, "feature_size": 640, "padding_side": "right", "padding_value": 0.0,
                          "return_attention_mask": True, "sampling_rate": 16000},
}
