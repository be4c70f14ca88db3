"""Vision backbones and image classifiers of keras-hub, small but as published."""

import importlib
from collections.abc import Callable
from typing import Any

from keras_grow.tools.coverage.models import Entry

_VIT: dict[str, Any] = {"num_layers": 3, "num_heads": 3, "hidden_dim": 48, "patch_size": 8}

# Name: class, arguments, image size.
BACKBONES: dict[str, tuple[str, dict[str, Any], int]] = {
    "CSPDarkNet53": (
        "CSPNetBackbone",
        {
            "stem_filters": 32, "stem_kernel_size": 3, "stem_strides": 1,
            "stackwise_depth": [1, 2, 4], "stackwise_strides": [1, 2, 2],
            "stackwise_num_filters": [32, 64, 128], "block_type": "dark_block",
            "stage_type": "csp",
        },
        64,
    ),
    "CSPResNeXt": (
        "CSPNetBackbone",
        {
            "stem_filters": 64, "stem_kernel_size": 7, "stem_strides": 4, "stem_padding": "same",
            "stackwise_depth": [2, 2], "stackwise_strides": [1, 2], "groups": 8,
            "stackwise_num_filters": [64, 128], "block_type": "bottleneck_block",
            "stage_type": "cs3", "bottle_ratio": [1.0], "block_ratio": [0.5],
            "expand_ratio": [1.0],
        },
        64,
    ),
    "DeiT": ("DeiTBackbone", {**_VIT, "intermediate_dim": 192}, 32),
    "DenseNet121": ("DenseNetBackbone", {"stackwise_num_repeats": [6, 12, 24, 16]}, 64),
    "DINOV2": (
        "DINOV2Backbone",
        {**_VIT, "intermediate_dim": 192, "position_embedding_shape": (32, 32)},
        32,
    ),
    "DINOV3": ("DINOV3Backbone", {**_VIT, "intermediate_dim": 192}, 32),
    "EfficientNetV2-S": (
        "EfficientNetBackbone",
        {
            "stackwise_kernel_sizes": [3, 3, 3, 3, 3, 3],
            "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
            "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
            "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
            "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
            "stackwise_squeeze_and_excite_ratios": [0.0, 0.0, 0, 0.25, 0.25, 0.25],
            "stackwise_strides": [1, 2, 2, 2, 1, 2],
            "stackwise_block_types": ["fused"] * 3 + ["unfused"] * 3,
            "stackwise_width_coefficients": [1.0] * 6,
            "stackwise_depth_coefficients": [1.0] * 6,
        },
        64,
    ),
    "HGNetV2": (
        "HGNetV2Backbone",
        {
            "depths": [1, 2, 2], "embedding_size": 32, "hidden_sizes": [64, 128, 256],
            "stem_channels": [3, 16, 32], "hidden_act": "relu",
            "use_learnable_affine_block": True,
            "stackwise_stage_filters": [
                (32, 16, 64, 1, 1, 3), (64, 32, 128, 2, 1, 3), (128, 64, 256, 2, 1, 3)
            ],
            "apply_downsample": [False, True, True],
            "use_lightweight_conv_block": [False, False, True],
        },
        64,
    ),
    "MiT-B0": (
        "MiTBackbone",
        {
            "num_layers": 4, "hidden_dims": [32, 64, 160, 256], "layerwise_depths": [2, 2, 2, 2],
            "layerwise_num_heads": [1, 2, 5, 8], "layerwise_sr_ratios": [8, 4, 2, 1],
            "layerwise_patch_sizes": [7, 3, 3, 3], "layerwise_strides": [4, 2, 2, 2],
            "max_drop_path_rate": 0.1,
        },
        64,
    ),
    "MobileNetV3": (
        "MobileNetBackbone",
        {
            "stackwise_expansion": [[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
            "stackwise_num_blocks": [2, 3, 2, 3],
            "stackwise_num_filters": [[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
            "stackwise_kernel_size": [[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
            "stackwise_num_strides": [[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
            "stackwise_se_ratio": [[None, None], [0.25] * 3, [0.3, 0.3], [0.3, 0.25, 0.25]],
            "stackwise_activation": [
                ["relu"] * 2, ["hard_swish"] * 3, ["hard_swish"] * 2, ["hard_swish"] * 3
            ],
            "stackwise_padding": [[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
            "output_num_filters": 288, "input_activation": "hard_swish",
            "output_activation": "hard_swish", "input_num_filters": 16,
            "depthwise_filters": 8, "depthwise_stride": 2, "depthwise_residual": False,
            "squeeze_and_excite": 0.5, "last_layer_filter": 288,
        },
        64,
    ),
    "MobileNetV5": (
        "MobileNetV5Backbone",
        {
            "stackwise_block_types": [["er"], ["uir", "uir"]],
            "stackwise_num_blocks": [1, 2],
            "stackwise_num_filters": [[24], [48, 48]],
            "stackwise_strides": [[2], [2, 1]],
            "stackwise_act_layers": [["relu"], ["relu", "relu"]],
            "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
            "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
            "stackwise_dw_kernel_sizes": [[0], [5, 5]],
            "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
            "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
            "stackwise_exp_kernel_sizes": [[3], [0, 0]],
            "stackwise_pw_kernel_sizes": [[1], [0, 0]],
            "stackwise_num_heads": [[0], [0, 0]],
            "stackwise_key_dims": [[0], [0, 0]],
            "stackwise_value_dims": [[0], [0, 0]],
            "stackwise_kv_strides": [[0], [0, 0]],
            "stackwise_use_cpe": [[False], [False, False]],
            "use_msfa": False,
        },
        64,
    ),
    "ResNet18": (
        "ResNetBackbone",
        {
            "input_conv_filters": [64], "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 128, 256, 512], "stackwise_num_blocks": [2, 2, 2, 2],
            "stackwise_num_strides": [1, 2, 2, 2], "block_type": "basic_block",
        },
        64,
    ),
    "ResNet50V2": (
        "ResNetBackbone",
        {
            "input_conv_filters": [64], "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 128, 256, 512], "stackwise_num_blocks": [3, 4, 6, 3],
            "stackwise_num_strides": [1, 2, 2, 2], "block_type": "bottleneck_block",
            "use_pre_activation": True,
        },
        64,
    ),
    "ResNet18vd": (
        "ResNetBackbone",
        {
            "input_conv_filters": [32, 32, 64], "input_conv_kernel_sizes": [3, 3, 3],
            "stackwise_num_filters": [64, 128, 256, 512], "stackwise_num_blocks": [2, 2, 2, 2],
            "stackwise_num_strides": [1, 2, 2, 2], "block_type": "basic_block_vd",
        },
        64,
    ),
    "SigLIP vision": ("SigLIPVisionEncoder", {**_VIT, "intermediate_dim": 192}, 32),
    "CLIP vision": ("CLIPVisionEncoder", {**_VIT, "intermediate_dim": 192}, 32),
    "Swin": (
        "SwinTransformerBackbone",
        {
            "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4,
            "patch_size": 4,
        },
        32,
    ),
    "VGG16": (
        "VGGBackbone",
        {
            "stackwise_num_repeats": [2, 2, 3, 3, 3],
            "stackwise_num_filters": [64, 128, 256, 512, 512],
        },
        32,
    ),
    "ViT": ("ViTBackbone", {**_VIT, "mlp_dim": 192}, 32),
    "ViTDet": (
        "ViTDetBackbone",
        {
            "patch_size": 8, "hidden_size": 48, "num_layers": 4, "num_heads": 3,
            "global_attention_layer_indices": [1, 3], "intermediate_dim": 192,
            "num_output_channels": 32, "window_size": 2,
        },
        64,
    ),
    "Xception": (
        "XceptionBackbone",
        {
            "stackwise_conv_filters": [[32, 64], [64, 128], [256, 256]],
            "stackwise_pooling": [True, True, False],
        },
        64,
    ),
}  # fmt: skip

# Classifier: class, backbone, arguments.
CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "CSPDarkNet53": ("CSPNetImageClassifier", {}),
    "DeiT": ("DeiTImageClassifier", {}),
    "DenseNet121": ("DenseNetImageClassifier", {}),
    "EfficientNetV2-S": ("EfficientNetImageClassifier", {}),
    "HGNetV2": ("HGNetV2ImageClassifier", {"head_filters": 128}),
    "MiT-B0": ("MiTImageClassifier", {}),
    "MobileNetV3": ("MobileNetImageClassifier", {}),
    "MobileNetV5": ("MobileNetV5ImageClassifier", {}),
    "ResNet18": ("ResNetImageClassifier", {}),
    "Swin": ("SwinTransformerImageClassifier", {}),
    "VGG16": ("VGGImageClassifier", {"pooling": "avg", "pooling_hidden_dim": 256}),
    "ViT": ("ViTImageClassifier", {}),
    "Xception": ("XceptionImageClassifier", {}),
}


def _backbone(name: str) -> Any:
    import keras_hub

    kind, arguments, size = BACKBONES[name]
    shape = "input_shape" if kind == "EfficientNetBackbone" else "image_shape"
    return _find(keras_hub, kind)(**{shape: (size, size, 3)}, **arguments)


def _find(keras_hub: Any, kind: str) -> Any:
    """A class of `keras_hub.models`; vision encoders are only part of larger models there."""
    if not kind.endswith("VisionEncoder"):
        return getattr(keras_hub.models, kind)
    name = kind.removesuffix("VisionEncoder").lower()
    module = importlib.import_module(f"keras_hub.src.models.{name}.{name}_vision_encoder")
    return getattr(module, kind)


def _build(name: str) -> Callable[[], Any]:
    return lambda: _backbone(name)


def _classifier(name: str) -> Callable[[], Any]:
    def build() -> Any:
        import keras_hub

        kind, arguments = CLASSIFIERS[name]
        make = getattr(keras_hub.models, kind)
        return make(
            backbone=_backbone(name), num_classes=100, preprocessor=None, activation=None,
            **arguments,
        )  # fmt: skip

    return build


def entries() -> list[Entry]:
    """The backbones and the classifiers."""
    return [
        *(Entry("keras-hub", _family(n), n, _build(n)) for n in BACKBONES),
        *(
            Entry("keras-hub", _family(n), f"{CLASSIFIERS[n][0]} of {n}", _classifier(n))
            for n in CLASSIFIERS
        ),
    ]


def _family(name: str) -> str:
    return BACKBONES[name][0].removesuffix("Backbone")
