"""Backbones and classifiers of keras-cv, by its generic constructors (its named ones download)."""

from collections.abc import Callable
from typing import Any

from keras_grow.tools.coverage.models import Entry

_EFFICIENT: dict[str, Any] = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}
_RESNET: dict[str, Any] = {
    "stackwise_filters": [64, 128, 256, 512],
    "stackwise_blocks": [2, 2, 2, 2],
    "stackwise_strides": [1, 2, 2, 2],
}

# Name: class, arguments, image size. The sizes are those of the published small models.
BACKBONES: dict[str, tuple[str, dict[str, Any], int]] = {
    "CSPDarkNet": (
        "CSPDarkNetBackbone",
        {"stackwise_channels": [48, 96, 192, 384], "stackwise_depth": [1, 3, 3, 1]},
        64,
    ),
    "CSPDarkNet, depthwise": (
        "CSPDarkNetBackbone",
        {
            "stackwise_channels": [48, 96, 192, 384],
            "stackwise_depth": [1, 3, 3, 1],
            "use_depthwise": True,
        },
        64,
    ),
    "DenseNet121": ("DenseNetBackbone", {"stackwise_num_repeats": [6, 12, 24, 16]}, 64),
    "EfficientNetLite-B0": ("EfficientNetLiteBackbone", _EFFICIENT, 64),
    "EfficientNetV1-B0": (
        "EfficientNetV1Backbone",
        {**_EFFICIENT, "stackwise_squeeze_and_excite_ratios": [0.25] * 7},
        64,
    ),
    "EfficientNetV2-S": (
        "EfficientNetV2Backbone",
        {
            "stackwise_kernel_sizes": [3, 3, 3, 3, 3, 3],
            "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
            "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
            "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
            "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
            "stackwise_squeeze_and_excite_ratios": [0.0, 0.0, 0, 0.25, 0.25, 0.25],
            "stackwise_strides": [1, 2, 2, 2, 1, 2],
            "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 3,
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
        },
        64,
    ),
    "MiT-B0": (
        "MiTBackbone",
        {"depths": [2, 2, 2, 2], "embedding_dims": [32, 64, 160, 256]},
        64,
    ),
    "MobileNetV3Small": (
        "MobileNetV3Backbone",
        {
            "stackwise_expansion": [1, 72.0 / 16, 88.0 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
            "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
            "stackwise_kernel_size": [3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5],
            "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
            "stackwise_se_ratio": [0.25, None, None, *[0.25] * 8],
            "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
        },
        64,
    ),
    "ResNet18": ("ResNetBackbone", _RESNET, 64),
    "ResNet18V2": ("ResNetV2Backbone", _RESNET, 64),
    "ResNet50V2": (
        "ResNetV2Backbone",
        {**_RESNET, "stackwise_blocks": [3, 4, 6, 3], "block_type": "block"},
        64,
    ),
    "VGG16": ("VGG16Backbone", {"include_top": False}, 32),
    "VideoSwin-T": (
        "VideoSwinBackbone",
        {"input_shape": (4, 32, 32, 3), "window_size": [2, 4, 4], "depths": [2, 2, 2, 2]},
        32,
    ),
    "ViTDet": (
        "ViTDetBackbone",
        {
            "embed_dim": 96, "depth": 4, "mlp_dim": 384, "num_heads": 4, "out_chans": 64,
            "window_size": 2, "global_attention_indices": [1, 3],
        },
        64,
    ),
    "YOLOV8-XS": (
        "YOLOV8Backbone",
        {"stackwise_channels": [32, 64, 128, 256], "stackwise_depth": [1, 2, 2, 1]},
        64,
    ),
}  # fmt: skip


def _backbone(name: str) -> Any:
    import keras_cv

    kind, arguments, size = BACKBONES[name]
    shape = {"input_shape": (size, size, 3), "include_rescaling": False}
    return getattr(keras_cv.models, kind)(**{**shape, **arguments})


def _build(name: str) -> Callable[[], Any]:
    return lambda: _backbone(name)


def _classifier(name: str) -> Callable[[], Any]:
    def build() -> Any:
        import keras_cv

        return keras_cv.models.ImageClassifier(
            backbone=_backbone(name), num_classes=100, activation=None
        )

    return build


def entries() -> list[Entry]:
    """The backbones, and the classifiers of those that make image features."""
    backbones = [Entry("keras-cv", _family(n), n, _build(n)) for n in BACKBONES]
    classifiers = [
        Entry("keras-cv", _family(n), f"ImageClassifier of {n}", _classifier(n))
        for n in BACKBONES
        if _family(n) not in ("VideoSwin", "ViTDet", "VGG")
    ]
    return backbones + classifiers


def _family(name: str) -> str:
    return BACKBONES[name][0].removesuffix("Backbone")
