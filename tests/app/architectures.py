"""Tiny models of architectures whose names and sizes are not where BERT's are."""

import torch
import transformers

from tests.app.tiny import _BERT, VOCABULARY, WORDS, save_tokenizer

_SIZE = len(VOCABULARY)
_ENCODER = _BERT | {"pad_token_id": 0}
_DECODER = _BERT | {
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 4,
    "eos_token_id": 4,
}
_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}
_SWIN = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 2,
}

ENCODERS = {
    "modernbert": ("ModernBertConfig", _ENCODER),
    "mpnet": ("MPNetConfig", _ENCODER | {"pad_token_id": 1}),
    "camembert": ("CamembertConfig", _ENCODER | {"pad_token_id": 1}),
    "longformer": (
        "LongformerConfig",
        _ENCODER
        | {"pad_token_id": 1, "attention_window": 4, "max_position_embeddings": 34},
    ),
    "deberta-v2": (
        "DebertaV2Config",
        _ENCODER | {"relative_attention": True, "max_relative_positions": -1},
    ),
    "xlnet": (
        "XLNetConfig",
        {
            "vocab_size": _SIZE,
            "d_model": 16,
            "n_layer": 2,
            "n_head": 2,
            "d_inner": 24,
            "pad_token_id": 0,
        },
    ),
    "funnel": (
        "FunnelConfig",
        {
            "vocab_size": _SIZE,
            "block_sizes": [1, 1],
            "d_model": 16,
            "n_head": 2,
            "d_head": 8,
            "d_inner": 24,
            "num_decoder_layers": 1,
        },
    ),
    "fnet": ("FNetConfig", _ENCODER),
    "convbert": ("ConvBertConfig", _ENCODER | {"embedding_size": 8, "head_ratio": 1}),
    "canine": (
        "CanineConfig",
        {k: v for k, v in _ENCODER.items() if k != "vocab_size"}
        | {"num_hash_functions": 2, "num_hash_buckets": 32},
    ),
    "t5": (
        "T5Config",
        {
            "vocab_size": _SIZE,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 2,
            "num_heads": 2,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": (
        "BartConfig",
        {
            "vocab_size": _SIZE,
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 32,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "decoder_start_token_id": 3,
            "forced_eos_token_id": 3,
        },
    ),
}
DECODERS = {
    "llama": ("LlamaConfig", _DECODER),
    "mistral": ("MistralConfig", _DECODER | {"sliding_window": None}),
    # Its tokenizer adds a token of its own.
    "qwen2": ("Qwen2Config", _DECODER | {"vocab_size": _SIZE + 1}),
    "qwen3": ("Qwen3Config", _DECODER | {"head_dim": 8}),
    "gemma2": ("Gemma2Config", _DECODER | {"head_dim": 8}),
    "phi": ("PhiConfig", _DECODER),
    "phi3": ("Phi3Config", _DECODER),
    "olmo2": ("Olmo2Config", _DECODER),
    "smollm3": ("SmolLM3Config", _DECODER),
    "granite": ("GraniteConfig", _DECODER),
    "starcoder2": ("Starcoder2Config", _DECODER),
    "mixtral": ("MixtralConfig", _DECODER | {"num_local_experts": 2}),
    # Like OPT-350m: the vectors that leave the model are shorter than hidden_size.
    "opt": (
        "OPTConfig",
        {
            "vocab_size": _SIZE,
            "hidden_size": 16,
            "word_embed_proj_dim": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 24,
            "max_position_embeddings": 32,
            "pad_token_id": 0,
            "bos_token_id": 4,
            "eos_token_id": 4,
        },
    ),
    "mamba": (
        "MambaConfig",
        {
            "vocab_size": _SIZE,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "state_size": 4,
            "pad_token_id": 0,
            "eos_token_id": 4,
        },
    ),
    # A model for texts and images: its sizes are in a config inside its config.
    "gemma3": (
        "Gemma3Config",
        {
            "text_config": _DECODER | {"head_dim": 8, "model_type": "gemma3_text"},
            "vision_config": _VIT | {"model_type": "siglip_vision_model"},
        },
    ),
}
IMAGES = {
    "deit": ("DeiTConfig", _VIT),
    "beit": ("BeitConfig", _VIT),
    "dinov2": ("Dinov2Config", _VIT | {"mlp_ratio": 2}),
    "swin": ("SwinConfig", _SWIN),
    "swinv2": ("Swinv2Config", _SWIN),
    "convnext": ("ConvNextConfig", {"hidden_sizes": [8] * 4, "depths": [1] * 4}),
    "siglip": (
        "SiglipConfig",
        {
            "vision_config": _VIT,
            "text_config": {k: v for k, v in _VIT.items() if "size" in k}
            | {"num_hidden_layers": 1, "num_attention_heads": 2},
        },
    ),
}
ALL = ENCODERS | DECODERS | IMAGES

_PAD_IS_1 = {w: n for n, w in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[END]"])}
_PAD_IS_1 |= {word: n for n, word in enumerate(WORDS, start=len(_PAD_IS_1))}


def save_architecture(folder, kind, **settings):
    """Save a tiny model of an architecture, with a tokenizer if it reads texts."""
    name, common = ALL[kind]
    config = getattr(transformers, name)(**(common | settings))
    config.architectures = []
    auto = "AutoModel"
    if kind in DECODERS:
        auto = "AutoModelForCausalLM"
    elif kind in IMAGES:
        auto = "AutoModelForImageClassification"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, auto).from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    if kind not in IMAGES:
        padded = common.get("pad_token_id") == 1
        save_tokenizer(
            folder,
            decoder=kind in DECODERS,
            vocabulary=_PAD_IS_1 if padded else VOCABULARY,
            model_max_length=10**30,
        )
    return folder
