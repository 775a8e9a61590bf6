"""timm: one small member of each family, narrowed where its function takes the widths."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from torch import nn

from benchmarks.zoo.row import ZooRow, last_layers, noise

__all__ = ["ROWS"]

CLASSES = 10


def _make(name: str, options: dict[str, Any]) -> Any:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)


def _classifier(model: Any) -> list[nn.Module]:
    found = model.get_classifier()
    layers = found if isinstance(found, tuple | list) else [found]
    return last_layers(*[layer for layer in layers if isinstance(layer, nn.Module)])


def _row(name: str, pixels: int = 64, **options: Any) -> ZooRow:
    batch = 2 if pixels <= 128 else 1
    make = functools.partial(_make, name, options)
    return ZooRow("timm", name, make, noise(batch, 3, pixels, pixels), classifier=_classifier)


def _built(name: str, cls: str, pixels: int = 64, **options: Any) -> ZooRow:
    """A row of a class whose function takes no widths; ``cls`` is ``module.Class``."""
    module, _, kind = cls.partition(".")

    def make() -> Any:
        found = importlib.import_module(f"timm.models.{module}")
        return getattr(found, kind)(num_classes=CLASSES, **options)

    return ZooRow("timm", name, make, noise(2, 3, pixels, pixels), classifier=_classifier)


def _caformer() -> Any:
    from timm.models import metaformer

    channels_first, channels_last = metaformer.LayerNorm2dNoBias, metaformer.LayerNormNoBias
    return metaformer.MetaFormer(
        num_classes=CLASSES,
        depths=(1, 1, 2, 1),
        dims=(16, 32, 64, 96),
        token_mixers=[metaformer.SepConv] * 2 + [metaformer.Attention] * 2,
        norm_layers=[channels_first] * 2 + [channels_last] * 2,
    )


def _mvit() -> Any:
    from timm.models import mvitv2

    cfg = mvitv2.MultiScaleVitCfg(depths=(1, 1, 2, 1), embed_dim=32)
    return mvitv2.MultiScaleVit(cfg, img_size=64, num_classes=CLASSES)


def _sized(name: str, pixels: int = 64, **options: Any) -> ZooRow:
    """A row of a network that has to be told the size of its images."""
    return _row(name, pixels, img_size=pixels, **options)


_NARROW: dict[str, Any] = {"embed_dim": 96, "depth": 3, "num_heads": 4}

ROWS: list[ZooRow] = [
    _sized("beit_base_patch16_224", **_NARROW),
    _sized("botnet26t_256", 128),
    _row("halonet26t", 256),
    _row("lambda_resnet26t", 128),
    _row("bat_resnext26ts", 256),
    _row("gernet_s"),
    _row("mobileone_s0"),
    _row("regnetz_b16"),
    _row("gcresnext26ts"),
    _sized("cait_xxs24_224", depth=3),
    _sized("coat_tiny"),
    _sized("coat_lite_tiny"),
    _sized("convit_tiny", depth=3, local_up_to_layer=2),
    _built("convmixer", "convmixer.ConvMixer", dim=64, depth=4),
    _row("convnext_atto"),
    _row("convnextv2_atto"),
    _row("convnext_atto_rms"),
    _row("cpubone_nano", 128),
    _row("crossvit_tiny_240", 240, depth=[[1, 2, 0], [1, 2, 0]]),
    _row("csatv2", 256),
    _row("cs3darknet_focus_s"),
    _row("cspresnet50"),
    _row("cspnext_tiny"),
    _row("davit_tiny", depths=(1, 1, 2, 1), embed_dims=(24, 48, 96, 192), num_heads=(1, 2, 4, 8)),
    _sized("deit_tiny_distilled_patch16_224", depth=3),
    _sized("deit3_small_patch16_224", **_NARROW),
    _row("densenet121", growth_rate=8, block_config=(2, 3, 3, 2)),
    _row("dla46_c"),
    _row("dpn68"),
    _row("edgenext_xx_small"),
    _row("efficientformer_l1", 224),
    _row("efficientformerv2_s0", 224),
    _row("efficientnet_b0"),
    _row("mixnet_s"),
    _row("mnasnet_small"),
    _row("tf_efficientnetv2_b0"),
    _row("efficientvim_m1", 64),
    _row("efficientvit_b0", 128),
    _sized("efficientvit_m0", 64),
    _sized("eva02_tiny_patch14_224", 56, depth=3),
    _row("fasternet_t0"),
    _row("fastvit_t8", 128),
    _built("focalnet", "focalnet.FocalNet", depths=(1, 1, 2, 1), embed_dim=24),
    _built(
        "gcvit",
        "gcvit.GlobalContextVit",
        128,
        img_size=128,
        depths=(1, 1, 1, 1),
        embed_dim=32,
        num_heads=(2, 2, 4, 4),
    ),
    _row("gemma4_vit_167m", 96, embed_dim=96, depth=3, num_heads=4),
    _row("ghostnet_050"),
    _row("ghostnetv2_100"),
    _row("ghostnetv3_050"),
    _row("hardcorenas_a"),
    _row("hgnetv2_b0"),
    _sized("hiera_tiny_224", embed_dim=24, stages=(1, 1, 2, 1)),
    _row("sam2_hiera_tiny", 128),
    _row("hrnet_w18_small"),
    _row("iformer_t", 128),
    _row("inception_next_atto"),
    _row("inception_v3", 96, aux_logits=False),
    _row("lcnetv2_small"),
    _sized("levit_128s", 128),
    _row("lowformer_b0", 64),
    _row("mambaout_femto"),
    _sized("maxvit_rmlp_pico_rw_256", 64),
    _sized("coatnet_nano_rw_224", 64),
    _row("poolformer_s12"),
    ZooRow("timm", "caformer", _caformer, noise(2, 3, 64, 64), classifier=_classifier),
    _built("mixer", "mlp_mixer.MlpMixer", img_size=64, patch_size=16, num_blocks=3, embed_dim=96),
    _sized("gmlp_ti16_224"),
    _sized("resmlp_12_224"),
    _row("mobilenetv3_small_050"),
    _row("lcnet_035"),
    _row("mobilenetv4_conv_small_035"),
    _row("mobilenetv4_hybrid_medium", 64),
    _row("mobilevit_xxs"),
    _row("mobilevitv2_050"),
    ZooRow("timm", "mvitv2", _mvit, noise(2, 3, 64, 64), classifier=_classifier),
    _row("naflexvit_base_patch16_gap", **_NARROW),
    _built(
        "nest",
        "nest.Nest",
        64,
        img_size=64,
        embed_dims=(32, 64, 128),
        num_heads=(2, 4, 8),
        depths=(1, 1, 2),
    ),
    _row("nextvit_small", 64, depths=(1, 2, 5, 1)),
    _row("nf_regnet_b0"),
    _row("test_nfnet"),
    _row("pit_ti_224", 224),
    _row("pvt_v2_b0"),
    _row("qwen3_vit_88m", **_NARROW),
    _row("rdnet_tiny", 64),
    _row("regnetx_002"),
    _row("regnety_002"),
    _row("repghostnet_050"),
    _row("repvit_m0_9"),
    _row("res2net50_14w_8s"),
    _row("resnest14d"),
    _row("resnet10t"),
    _row("ecaresnet26t"),
    _row("resnetv2_18"),
    _row("resnetv2_50x1_bit"),
    _row("rexnet_100"),
    _row("selecsls42"),
    _row("legacy_seresnet18"),
    _row("sequencer2d_s", 224, layers=[1, 1, 1, 1], embed_dims=[48, 96, 96, 96]),
    _row("shvit_s1", 128),
    _row("skresnet18"),
    _row("starnet_s050"),
    _row("swiftformer_xs"),
    _sized("swin_tiny_patch4_window7_224", window_size=4, embed_dim=24, depths=(1, 2, 2, 1)),
    _sized("swinv2_tiny_window8_256", window_size=4, embed_dim=24, depths=(1, 2, 2, 1)),
    _sized("swinv2_cr_tiny_224", window_size=4, embed_dim=24, depths=(1, 2, 2, 1)),
    _row("tiny_vit_5m_224", 64),
    _sized("tnt_s_patch16_224", depth=2),
    _row("tresnet_m"),
    _sized("twins_pcpvt_small", depths=[1, 1, 1, 1]),
    _sized("twins_svt_small", depths=[1, 1, 2, 1]),
    _built("vgg", "vgg.VGG", mlp_ratio=0.05, cfg=[16, "M", 32, "M", 64, 64, "M", 96, "M", 96, "M"]),
    _sized("visformer_tiny"),
    _sized("vit_tiny_patch16_224", depth=3),
    _sized("vit_wee_patch16_reg1_gap_256", depth=3),
    _sized("vit_base_patch16_siglip_gap_224", **_NARROW),
    _sized("vit_base_patch16_siglip_224", **_NARROW),
    _sized("vit_tiny_r_s16_p8_224", depth=3),
    _sized("test_vit_relpos"),
    _sized("samvit_base_patch16_224", **_NARROW),
    _sized("vitamin_small_224", 64),
    _built(
        "volo",
        "volo.VOLO",
        64,
        img_size=64,
        layers=[1, 1, 2, 1],
        embed_dims=[48, 96, 96, 96],
        num_heads=[2, 4, 4, 4],
    ),
    _row("ese_vovnet19b_slim_dw"),
    _row("legacy_xception"),
    _row("xception41"),
    _sized("xcit_nano_12_p16_224", 112),
]
