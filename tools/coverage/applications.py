"""All of `keras.applications`, untrained, on images as small as they take, ending in logits."""

from collections.abc import Callable
from typing import Any

from keras_grow.tools.coverage.models import ALL_BACKENDS, PIXELS, STANDARD, Entry

# Family: image size, inputs, names.
_FAMILIES: dict[str, tuple[int, tuple[float, float], list[str]]] = {
    "ConvNeXt": (
        64, PIXELS, [f"ConvNeXt{s}" for s in ("Tiny", "Small", "Base", "Large", "XLarge")]
    ),
    "DenseNet": (64, STANDARD, ["DenseNet121", "DenseNet169", "DenseNet201"]),
    "EfficientNet": (64, PIXELS, [f"EfficientNetB{i}" for i in range(8)]),
    "EfficientNetV2": (
        64, PIXELS, [f"EfficientNetV2{s}" for s in ("B0", "B1", "B2", "B3", "S", "M", "L")]
    ),
    "InceptionV3": (75, STANDARD, ["InceptionV3"]),
    "InceptionResNetV2": (75, STANDARD, ["InceptionResNetV2"]),
    "MobileNet": (64, STANDARD, ["MobileNet"]),
    "MobileNetV2": (64, STANDARD, ["MobileNetV2"]),
    "MobileNetV3": (64, PIXELS, ["MobileNetV3Small", "MobileNetV3Large"]),
    "NASNet": (64, STANDARD, ["NASNetMobile", "NASNetLarge"]),
    "ResNet": (64, STANDARD, ["ResNet50", "ResNet101", "ResNet152"]),
    "ResNetV2": (64, STANDARD, ["ResNet50V2", "ResNet101V2", "ResNet152V2"]),
    "VGG": (32, STANDARD, ["VGG16", "VGG19"]),
    "Xception": (71, STANDARD, ["Xception"]),
}  # fmt: skip


def _build(name: str, size: int) -> Callable[[], Any]:
    def build() -> Any:
        import keras

        make = getattr(keras.applications, name)
        return make(weights=None, input_shape=(size, size, 3), classifier_activation=None)

    return build


def entries() -> list[Entry]:
    """All 40 models."""
    return [
        Entry(
            "keras.applications",
            family,
            name,
            _build(name, size),
            inputs,
            # Its pooled branches have another size than they should on torch, in Keras itself.
            ("jax", "tensorflow") if name == "NASNetMobile" else ALL_BACKENDS,
        )
        for family, (size, inputs, names) in _FAMILIES.items()
        for name in names
    ]
