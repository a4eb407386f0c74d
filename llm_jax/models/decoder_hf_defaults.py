"""What Hugging Face's config classes of the Llama family take for keys that a config.json lacks, by model type."""

from typing import Any

# Also which keys a class has beside those that decoder_hf.py reads of all.
COMMON = dict(rms_norm_eps=1e-6, attention_dropout=0.0, tie_word_embeddings=False, hidden_act="silu", pad_token_id=None)
QWEN = COMMON | dict(vocab_size=151_936, hidden_size=4096, intermediate_size=22_016, num_hidden_layers=32,
                     num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=32_768,
                     use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None)
GEMMA = COMMON | dict(max_position_embeddings=8192, head_dim=256, tie_word_embeddings=True, pad_token_id=0,
                      attention_bias=False)
GEMMA2 = GEMMA | dict(vocab_size=256_000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
                      num_attention_heads=8, num_key_value_heads=4, query_pre_attn_scalar=256, sliding_window=4096,
                      layer_types=None, hidden_activation="gelu_pytorch_tanh")
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": COMMON | dict(vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32,
                           num_attention_heads=32, num_key_value_heads=None, max_position_embeddings=2048,
                           head_dim=None, attention_bias=False, mlp_bias=False),
    "mistral": COMMON | dict(vocab_size=32_000, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
                             num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131_072,
                             head_dim=None, sliding_window=4096),
    "mixtral": COMMON | dict(vocab_size=32_000, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
                             num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131_072,
                             head_dim=None, sliding_window=None, rms_norm_eps=1e-5, rope_theta=1_000_000.0,
                             num_local_experts=8, num_experts_per_tok=2, router_aux_loss_coef=0.001,
                             router_jitter_noise=0.0),
    "qwen2": QWEN | dict(head_dim=None),
    "qwen3": QWEN | dict(head_dim=128, attention_bias=False),
    "qwen3_moe": COMMON | dict(vocab_size=151_936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=24,
                               num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=32_768,
                               use_sliding_window=False, sliding_window=4096, head_dim=None, attention_bias=False,
                               num_local_experts=128, num_experts_per_tok=8, router_aux_loss_coef=0.001,
                               moe_intermediate_size=768, norm_topk_prob=False, decoder_sparse_step=1),
    "gemma": GEMMA | dict(vocab_size=256_000, hidden_size=3072, intermediate_size=24_576, num_hidden_layers=28,
                          num_attention_heads=16, num_key_value_heads=16, hidden_act="gelu_pytorch_tanh"),
    "gemma2": GEMMA2 | dict(final_logit_softcapping=30.0, attn_logit_softcapping=50.0),
    "gemma3_text": GEMMA2 | dict(vocab_size=262_208, max_position_embeddings=131_072, final_logit_softcapping=None,
                                 attn_logit_softcapping=None),
}
