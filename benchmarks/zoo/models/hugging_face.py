"""transformers: models made from small configurations, with random weights and a head."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.row import ZooRow, attribute, last_layers, noise, tokens

__all__ = ["ROWS"]

_HEADS = ("classifier", "lm_head", "score", "cls", "qa_outputs", "generator_predictions")
_WIDE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
_TEXT: dict[str, Any] = {**_WIDE, "vocab_size": 96, "max_position_embeddings": 64}
_CAUSAL: dict[str, Any] = {**_TEXT, "use_cache": False, "pad_token_id": 0}
_GROUPED: dict[str, Any] = {**_CAUSAL, "num_key_value_heads": 2}
_IMAGE: dict[str, Any] = {**_WIDE, "image_size": 32, "patch_size": 8, "num_labels": 10}
_SPEECH: dict[str, Any] = {
    **_WIDE,
    "vocab_size": 32,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def _make(model: str, config: str, options: dict[str, Any]) -> Any:
    import transformers

    settings = getattr(transformers, config)(**options)
    return getattr(transformers, model)(settings)


def _classifier(model: nn.Module) -> list[nn.Module]:
    found = [getattr(model, name, None) for name in _HEADS]
    return last_layers(*[layer for layer in found if isinstance(layer, nn.Module)])


def _row(
    model: str,
    inputs: Callable[[], Any],
    variant: str = "",
    config: str = "",
    output: str = "logits",
    **options: Any,
) -> ZooRow:
    """A row of a class of transformers; its configuration has the same name up to ``For``."""
    if not config:
        for end in ("For", "LMHead", "Model"):
            if end in model:
                config = model[: model.index(end)] + "Config"
                break
    make = functools.partial(_make, model, config, options)
    name = f"{model}, {variant}" if variant else model
    return ZooRow("transformers", name, make, inputs, attribute(output), _classifier)


def _text(model: str, variant: str = "", **options: Any) -> ZooRow:
    return _row(model, tokens(input_ids=12), variant, **{**_TEXT, **options})


def _causal(model: str, variant: str = "", **options: Any) -> ZooRow:
    return _row(model, tokens(input_ids=12), variant, **{**_CAUSAL, **options})


def _grouped(model: str, variant: str = "", **options: Any) -> ZooRow:
    return _causal(model, variant, **{"num_key_value_heads": 2, **options})


def _seq2seq(model: str, **options: Any) -> ZooRow:
    inputs = tokens(input_ids=12, decoder_input_ids=7)
    return _row(model, inputs, **{"vocab_size": 96, "use_cache": False, **options})


def _speech(model: str, **options: Any) -> ZooRow:
    return _row(model, noise(2, 4000), **{**_SPEECH, **options})


def _image(model: str, pixels: int = 32, **options: Any) -> ZooRow:
    return _row(model, _pixels(pixels), **{**_IMAGE, "image_size": pixels, **options})


def _pixels(pixels: int, **more: int) -> Callable[[], dict[str, Tensor]]:
    def make() -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(2, 3, pixels, pixels), **tokens(**more)()}

    return make


def _features(name: str, *shape: int, **more: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: torch.randn(shape), **tokens(**more)()}


def _conv(model: str, pixels: int = 64, **options: Any) -> ZooRow:
    """A network of convolutions, which has a configuration of its own."""
    return _row(model, _pixels(pixels), **{"num_labels": 10, **options})


_ENCODER_DECODER: dict[str, Any] = {
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 64,
}
_T5: dict[str, Any] = {"d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_heads": 4}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
_SWIN: dict[str, Any] = {
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "patch_size": 4,
}
_CLIP: dict[str, Any] = {
    "text_config": {**_TEXT, "eos_token_id": 2, "projection_size": 48},
    "vision_config": {**_WIDE, "image_size": 32, "patch_size": 8},
}

ROWS: list[ZooRow] = [
    _text("BertForMaskedLM"),
    _text("BertForSequenceClassification"),
    _text("BertForSequenceClassification", "eager attention", attn_implementation="eager"),
    _text("RobertaForSequenceClassification"),
    _row(
        "DistilBertForSequenceClassification",
        tokens(input_ids=12),
        vocab_size=96,
        dim=48,
        n_layers=2,
        n_heads=4,
        hidden_dim=80,
        max_position_embeddings=64,
    ),
    _text("ElectraForTokenClassification", embedding_size=32),
    _text(
        "DebertaV2ForSequenceClassification",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
    ),
    _text("AlbertForSequenceClassification", embedding_size=32),
    _text("MPNetForSequenceClassification"),
    _row(
        "XLMForSequenceClassification",
        tokens(input_ids=12),
        vocab_size=96,
        emb_dim=48,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=64,
    ),
    _text("CamembertForTokenClassification"),
    _text("FNetForSequenceClassification"),
    _text("ConvBertForSequenceClassification", embedding_size=48),
    _text("SqueezeBertForSequenceClassification", embedding_size=48),
    _text("NystromformerForSequenceClassification", num_landmarks=4, segment_means_seq_len=12),
    _text("ModernBertForSequenceClassification", pad_token_id=0, global_attn_every_n_layers=2),
    _row(
        "FunnelForSequenceClassification",
        tokens(input_ids=16),
        vocab_size=96,
        block_sizes=[1, 1],
        d_model=48,
        n_head=4,
        d_head=12,
        d_inner=80,
    ),
    _row(
        "XLNetForSequenceClassification",
        tokens(input_ids=12),
        vocab_size=96,
        d_model=48,
        n_layer=2,
        n_head=4,
        d_inner=80,
        use_mems_eval=False,
    ),
    _causal("GPT2LMHeadModel", n_embd=48, n_layer=2, n_head=4, n_positions=64),
    _causal(
        "GPT2LMHeadModel",
        "eager attention",
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
        attn_implementation="eager",
    ),
    _row(
        "GPTNeoForCausalLM",
        tokens(input_ids=12),
        vocab_size=96,
        hidden_size=48,
        num_layers=2,
        num_heads=4,
        intermediate_size=80,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
        use_cache=False,
    ),
    _causal("GPTNeoXForCausalLM"),
    _row(
        "GPTJForCausalLM",
        tokens(input_ids=12),
        vocab_size=96,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
        rotary_dim=8,
        use_cache=False,
    ),
    _causal("LlamaForCausalLM"),
    _grouped("LlamaForCausalLM", "grouped queries"),
    _grouped("LlamaForCausalLM", "tied embeddings", tie_word_embeddings=True),
    _grouped("Qwen2ForCausalLM"),
    _grouped("Qwen3ForCausalLM", head_dim=12),
    _grouped(
        "Qwen2MoeForCausalLM",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=32,
    ),
    _grouped("MistralForCausalLM"),
    _causal("PhiForCausalLM"),
    _grouped("Phi3ForCausalLM"),
    _grouped("GemmaForCausalLM", head_dim=12),
    _grouped("Gemma2ForCausalLM", head_dim=12),
    _grouped("Gemma3ForCausalLM", config="Gemma3TextConfig", head_dim=12),
    _causal("StableLmForCausalLM", hidden_size=64, num_key_value_heads=4),
    _grouped("Olmo2ForCausalLM"),
    _causal("OPTForCausalLM", ffn_dim=80, word_embed_proj_dim=48),
    _row(
        "BloomForCausalLM",
        tokens(input_ids=12),
        vocab_size=96,
        hidden_size=48,
        n_layer=2,
        n_head=4,
        use_cache=False,
    ),
    _causal("FalconForCausalLM"),
    _causal("MambaForCausalLM", state_size=8, time_step_rank=4),
    _seq2seq("T5ForConditionalGeneration", **_T5),
    _seq2seq("BartForConditionalGeneration", **_ENCODER_DECODER),
    _seq2seq("MBartForConditionalGeneration", **_ENCODER_DECODER),
    _seq2seq("PegasusForConditionalGeneration", **_ENCODER_DECODER),
    _row(
        "WhisperForConditionalGeneration",
        _features("input_features", 2, 16, 64, decoder_input_ids=7),
        **{
            **_ENCODER_DECODER,
            "vocab_size": 96,
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "use_cache": False,
            "pad_token_id": 0,
        },
    ),
    _row(
        "Speech2TextForConditionalGeneration",
        _features("input_features", 2, 64, 16, decoder_input_ids=7),
        **{
            **_ENCODER_DECODER,
            "vocab_size": 96,
            "input_feat_per_channel": 16,
            "conv_channels": 32,
            "max_source_positions": 64,
            "max_target_positions": 32,
            "use_cache": False,
        },
    ),
    _speech("Wav2Vec2ForCTC"),
    _row(
        "Wav2Vec2ForCTC",
        noise(2, 4000),
        "stable layer norm",
        **_SPEECH,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    ),
    _speech("HubertForCTC"),
    _speech("WavLMForCTC", num_buckets=16, max_bucket_distance=32),
    _speech("SEWForCTC", squeeze_factor=2),
    _speech("UniSpeechForCTC"),
    _speech("Wav2Vec2ConformerForCTC", conv_depthwise_kernel_size=7),
    _speech("Data2VecAudioForCTC", num_conv_pos_embeddings=3),
    _row(
        "ASTForAudioClassification",
        _features("input_values", 2, 48, 16),
        **_WIDE,
        max_length=48,
        num_mel_bins=16,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        num_labels=10,
    ),
    _row(
        "EncodecModel",
        noise(2, 1, 2400),
        output="audio_values",
        num_filters=8,
        hidden_size=32,
        codebook_dim=32,
        codebook_size=64,
        num_lstm_layers=1,
        target_bandwidths=[60.0],
        upsampling_ratios=[4, 2],
    ),
    _row(
        "DacModel",
        noise(2, 1, 2048),
        output="audio_values",
        encoder_hidden_size=8,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4],
        upsampling_ratios=[4, 2],
        n_codebooks=2,
        codebook_size=32,
    ),
    _row("CLIPModel", _pixels(32, input_ids=12), output="logits_per_image", **_CLIP),
    _row("SiglipModel", _pixels(32, input_ids=12), output="logits_per_image", **_CLIP),
    _image("ViTForImageClassification"),
    _image("DeiTForImageClassification"),
    _image("Dinov2ForImageClassification"),
    _image("BeitForImageClassification"),
    _row(
        "YolosForObjectDetection",
        _pixels(64),
        **{**_IMAGE, "image_size": [64, 64], "num_detection_tokens": 5},
    ),
    _conv("PvtV2ForImageClassification", 64, **_STAGES, num_attention_heads=[1, 2, 4, 8]),
    _row("SwinForImageClassification", _pixels(32), image_size=32, num_labels=10, **_SWIN),
    _row("Swinv2ForImageClassification", _pixels(32), image_size=32, num_labels=10, **_SWIN),
    _conv("ConvNextForImageClassification", **_STAGES),
    _conv("ConvNextV2ForImageClassification", **_STAGES),
    _conv("SegformerForImageClassification", **_STAGES, num_attention_heads=[1, 2, 4, 8]),
    _conv(
        "SegformerForSemanticSegmentation",
        **_STAGES,
        num_attention_heads=[1, 2, 4, 8],
        decoder_hidden_size=32,
    ),
    _conv("ResNetForImageClassification", embedding_size=16, **_STAGES),
    _conv("RegNetForImageClassification", embedding_size=16, groups_width=8, **_STAGES),
    _conv("PoolFormerForImageClassification", config="PoolFormerConfig", **_STAGES),
    _conv("MobileNetV2ForImageClassification", depth_multiplier=0.35),
    _conv(
        "MobileViTForImageClassification",
        hidden_sizes=[32, 48, 64],
        neck_hidden_sizes=[8, 12, 16, 24, 32, 40, 96],
        num_attention_heads=4,
    ),
    _conv("EfficientNetForImageClassification", width_coefficient=0.25, hidden_dim=320),
    _conv(
        "LevitForImageClassification",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    _conv(
        "CvtForImageClassification", embed_dim=[16, 24, 48], num_heads=[1, 2, 4], depth=[1, 2, 3]
    ),
    _conv("FocalNetForImageClassification", embed_dim=16, depths=[1, 1, 2, 1], image_size=64),
    _row(
        "VideoMAEForVideoClassification",
        _features("pixel_values", 2, 4, 3, 32, 32),
        **_IMAGE,
        num_frames=4,
    ),
]
