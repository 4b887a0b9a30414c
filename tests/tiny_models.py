"""Tiny random models of several architectures, built in memory."""

import torch
import transformers as t

VOCAB = 96
CONFIGS = {
    "llama": lambda: t.LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
    "gpt2": lambda: t.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "gpt_neox": lambda: t.GPTNeoXConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4),
    "qwen2": lambda: t.Qwen2Config(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
    "qwen3": lambda: t.Qwen3Config(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8),
    "mistral": lambda: t.MistralConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, sliding_window=None),
    "opt": lambda: t.OPTConfig(vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512, word_embed_proj_dim=32),
    "phi": lambda: t.PhiConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4),
    "gptj": lambda: t.GPTJConfig(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=512),
    "bloom": lambda: t.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4),
    "gpt_neo": lambda: t.GPTNeoConfig(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=16, max_position_embeddings=512),
    "mistral_sliding": lambda: t.MistralConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, sliding_window=16),
}  # fmt: skip
TREES = ("llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "mistral", "opt", "phi", "gptj")
WINDOWED = ("mistral_sliding",)  # trees too, as their layers take a mask for each window


def build_encoder_decoder(kind, seed=0, dtype=torch.float32, **changes):
    """T5s, named by feed-forward layer and output projection: relu_tied (the first T5), gated_untied (FLAN), mt5."""
    torch.manual_seed(seed + 3)
    family = t.MT5Config if kind == "mt5" else t.T5Config
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
    positions = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
    forward = "relu" if kind.startswith("relu") else "gated-gelu"
    settings = {"vocab_size": VOCAB, "feed_forward_proj": forward, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    model = t.AutoModelForSeq2SeqLM.from_config(family(**shape | positions | settings | changes)).eval().requires_grad_(False)
    if not kind.endswith("_tied"):
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight), requires_grad=False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, next((std for end, std in STDS.items() if name.endswith(end)), 0.3))
    return model.to(dtype)


STDS = {".q.weight": 0.1, "bias.weight": 3.0, ".o.weight": 1.2, "wo.weight": 1.2}  # so large that the text depends on the order of tokens and on the source
ENCODER_DECODER = ("relu_tied", "relu_untied", "gated_tied", "gated_untied", "mt5")


def build(kind, seed=0, dtype=torch.float32, **changes):
    """A model whose weights vary enough that greedy text does not repeat one token for ever."""
    torch.manual_seed(seed)
    config = CONFIGS[kind]()
    for key, value in changes.items():
        setattr(config, key, value)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 0
    model = t.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.3)
    return model.to(dtype)
