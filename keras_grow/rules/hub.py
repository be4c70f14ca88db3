"""What can grow inside the layers of keras-hub and keras-cv that make layers of their own.

By class name: neither library is imported.
"""

from collections.abc import Callable
from typing import Any

from keras_grow import _keras
from keras_grow.errors import GrowthError
from keras_grow.rules.activations import AT_ZERO_BY_NAME, AtZero
from keras_grow.rules.opened import Inside, Width, opens


def _sets(layer: Any, *names: str) -> Callable[[int], None]:
    def put(width: int) -> None:
        for name in names:
            setattr(layer, name, width)

    return put


# --- transformers ------------------------------------------------------------------------------

_HUB = "keras_hub.src.models"
_CV_MOBILE = "keras_cv.src.models.backbones.mobilenet_v3.mobilenet_v3_backbone"

AT_ZERO_BY_NAME.update(
    {
        f"{_HUB}.clip.clip_layers.quick_gelu": AtZero(0.0, 0.5),
        "keras_hub.src.utils.keras_utils.gelu_approximate": AtZero(0.0, 0.5),
        f"{_CV_MOBILE}.HardSigmoidActivation": AtZero(0.5, 1 / 6),
    }
)


@opens(
    "keras_hub.src.layers.modeling.transformer_encoder.TransformerEncoder",
    "keras_hub.src.layers.modeling.transformer_decoder.TransformerDecoder",
)
def transformer(layer: Any) -> Inside:
    hidden = _keras.transformer_hidden(layer)
    return Inside([Width([hidden], _sets(layer, "intermediate_dim"))])


@opens("keras_hub.src.layers.modeling.f_net_encoder.FNetEncoder")
def fnet(layer: Any) -> Inside:
    return Inside([Width([_keras.f_net_hidden(layer)], _sets(layer, "intermediate_dim"))])


@opens(f"{_HUB}.vit.vit_layers.MLP")
def vit_mlp(layer: Any) -> Inside:
    return Inside([Width([layer.dense_1], _sets(layer, "mlp_dim"))])


@opens(f"{_HUB}.vit.vit_layers.ViTEncoderBlock")
def vit_block(layer: Any) -> Inside:
    return Inside([Width([layer.mlp.dense_1], _sets(layer, "mlp_dim"))])


@opens(f"{_HUB}.vit.vit_layers.ViTEncoder")
def vit_encoder(layer: Any) -> Inside:
    hidden = [block.mlp.dense_1 for block in layer.encoder_layers]
    return Inside([Width(hidden, _sets(layer, "mlp_dim"))])


@opens(f"{_HUB}.dinov2.dinov2_layers.DINOV2MLP", f"{_HUB}.siglip.siglip_layers.SigLIPMLP")
def two_dense(layer: Any) -> Inside:
    return Inside([Width([layer.fc1], _sets(layer, "intermediate_dim"))])


@opens(
    f"{_HUB}.dinov2.dinov2_layers.DINOV2Layer",
    f"{_HUB}.siglip.siglip_layers.SigLIPEncoderLayer",
    f"{_HUB}.siglip.siglip_layers.SigLIPMultiHeadAttentionPooling",
)
def with_two_dense(layer: Any) -> Inside:
    hidden = getattr(layer.mlp, "fc1", None)
    return Inside([] if hidden is None else [Width([hidden], _sets(layer, "intermediate_dim"))])


@opens(f"{_HUB}.dinov2.dinov2_layers.DINOV2Encoder")
def dinov2_encoder(layer: Any) -> Inside:
    hidden = [getattr(block.mlp, "fc1", None) for block in layer.layers]
    if None in hidden:  # SwiGLU: its width is rounded from the config's
        return Inside()
    return Inside([Width(hidden, _sets(layer, "intermediate_dim"))])


@opens(f"{_HUB}.dinov3.dinov3_layers.DINOV3MLP")
def dinov3_mlp(layer: Any) -> Inside:
    return Inside([Width([layer.up_proj], _sets(layer, "intermediate_dim"))])


@opens(f"{_HUB}.dinov3.dinov3_layers.DINOV3GatedMLP")
def dinov3_gated(layer: Any) -> Inside:
    return Inside([Width([layer.gate_proj, layer.up_proj], _sets(layer, "intermediate_dim"))])


def _dinov3_hidden(layer: Any) -> list:
    gate = getattr(layer.mlp, "gate_proj", None)
    return [layer.mlp.up_proj] if gate is None else [gate, layer.mlp.up_proj]


@opens(f"{_HUB}.dinov3.dinov3_layers.DINOV3Layer")
def dinov3_layer(layer: Any) -> Inside:
    return Inside([Width(_dinov3_hidden(layer), _sets(layer, "intermediate_dim"))])


@opens(f"{_HUB}.dinov3.dinov3_layers.DINOV3Encoder")
def dinov3_encoder(layer: Any) -> Inside:
    hidden = [dense for block in layer.layers for dense in _dinov3_hidden(block)]
    return Inside([Width(hidden, _sets(layer, "intermediate_dim"))])


@opens(f"{_HUB}.clip.clip_layers.CLIPEncoderLayer")
def clip_layer(layer: Any) -> Inside:
    return Inside([Width([layer.dense_1], _sets(layer, "intermediate_dim"))])


# --- convolutional blocks ----------------------------------------------------------------------

_GATES = (
    "keras_cv.src.layers.regularization.squeeze_excite.SqueezeAndExcite2D",
    f"{_HUB}.mobilenet.mobilenet_backbone.SqueezeAndExcite2D",
)


@opens(*_GATES)
def squeeze_and_excite(layer: Any) -> Inside:
    cv = hasattr(layer, "squeeze_conv")
    squeeze, excite = (
        (layer.squeeze_conv, layer.excite_conv) if cv else (layer.conv_reduce, layer.conv_expand)
    )

    def narrow(width: int) -> None:
        if cv and width >= layer.filters:
            raise GrowthError(
                f"SqueezeAndExcite2D '{layer.name}' must stay narrower inside than its "
                f"{layer.filters} channels. Received: bottleneck width {width}."
            )
        layer.bottleneck_filters = width

    widths = [Width([squeeze], narrow), Width([excite], _sets(layer, "filters"))]
    return Inside(widths, _sets(layer, "filters"))


_EFFICIENT = (
    f"{_HUB}.efficientnet.mbconv.MBConvBlock",
    f"{_HUB}.efficientnet.fusedmbconv.FusedMBConvBlock",
    "keras_cv.src.layers.mbconv.MBConvBlock",
    "keras_cv.src.layers.fusedmbconv.FusedMBConvBlock",
)


@opens(*_EFFICIENT)
def mbconv(layer: Any) -> Inside:
    """Its config says the inner width as a whole multiple of the input's."""
    inputs = layer.input_filters

    def expand(width: int) -> None:
        layer.expand_ratio = width // inputs
        layer.filters = width

    def squeeze(width: int) -> None:
        if width > inputs:
            raise GrowthError(
                f"{type(layer).__name__} '{layer.name}' must not squeeze to more than its "
                f"{inputs} input channels. Received: width {width}."
            )
        # The layer takes the whole part of inputs * se_ratio.
        layer.se_ratio = min(1.0, (width + 0.5) / inputs)
        layer.filters_se = width

    widths = [Width([layer.se_conv1], squeeze)]
    if layer.expand_ratio != 1:  # 1 means another structure
        widths.append(Width([layer.conv1, layer.se_conv2], expand, step=inputs))
    return Inside(widths)


@opens(f"{_HUB}.mobilenet.mobilenet_backbone.InvertedResidualBlock")
def inverted_residual(layer: Any) -> Inside:
    """Its config says widths inside before they are rounded to multiples of 8."""
    gate = layer.squeeze_excite

    def note(width: int) -> None:
        layer.expansion = layer.conv1.filters
        if gate is not None:
            layer.squeeze_excite_ratio = gate.conv_reduce.filters / layer.conv1.filters

    hidden = [layer.conv1] if gate is None else [layer.conv1, gate.conv_expand]
    widths = [Width(hidden, note, step=8)]
    if gate is not None:
        widths.append(Width([gate.conv_reduce], note, step=8))
    return Inside(widths)


@opens(f"{_HUB}.mobilenet.mobilenet_backbone.DepthwiseConvBlock")
def depthwise_block(layer: Any) -> Inside:
    if not layer.squeeze_excite_ratio:
        return Inside()
    squeeze = layer.se_layer.conv_reduce

    def note(width: int) -> None:
        layer.squeeze_excite_ratio = width / layer.infilters

    return Inside([Width([squeeze], note, step=8)])
