"""What no rule can make exact, with the reason: the user is told why, not only that.

Every layer of keras.layers and every op of keras.ops has a rule or stands here, which a test
checks, so that a new release of Keras shows up there.
"""

import keras

from keras_grow.graph import Call
from keras_grow.rules.base import Rule
from keras_grow.rules.registry import find, register
from keras_grow.rules.space import Space

_CODE = "runs code of its own on the channels, which cannot be looked into"
_INPUT = (
    "prepares or augments the data that enters a model; put it in front of the layers that grow"
)
_KERNEL = (
    "takes its kernel from a tensor of the model, so there are no weights to grow; use a layer"
)
_NORM = "takes its scales and statistics as arguments of the call; use the layer of this kind"
_MATRIX = "treats the tensor as a matrix, of which every entry changes with one more row or column"
_INTEGERS = "works on integers or bits, which new channels do not start as"
_LOSS = "is a loss or a metric; give it to compile()"
_SPECTRUM = "transforms between time and frequency, along an axis that has to keep its length"
_FLAT = "works on the flattened batch or on its first axis"
_SHAPE = "has a result whose shape depends on what is in the tensor"
_MAKES = "makes a tensor of its own, which no layer widens"
_COLOUR = "works on the three colours of an image"
_SPREADS = "puts the channels at positions that the model computes"

LAYERS = {
    _CODE: "Lambda TFSMLayer TorchModuleWrapper FlaxLayer JaxLayer",
    _INPUT: "AugMix AutoContrast CategoryEncoding ContrastLimitedAdaptiveHistogramEqualization "
    "CutMix Discretization Equalization HashedCrossing Hashing IntegerLookup MaxNumBoundingBoxes "
    "MelSpectrogram MixUp Pipeline RandAugment RandomBrightness RandomColorDegeneration "
    "RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip "
    "RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective "
    "RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear "
    "RandomTranslation RandomZoom STFTSpectrogram Solarization StringLookup TextVectorization",
}

OPS = {
    _CODE: "AssociativeScan Cond ForiLoop JVP Map Scan Switch VectorizedMap WhileLoop Select",
    _KERNEL: "Conv ConvTranspose DepthwiseConv SeparableConv",
    _NORM: "BatchNorm LayerNorm RMSNorm",
    _MATRIX: "Cholesky CholeskyInverse Corrcoef Det Diag Diagflat Diagonal Eig Eigh Inv Kron "
    "Logdet Lstsq LuFactor MatrixRank Outer Pinv Qr SVD Slogdet Solve SolveTriangular Trace Tril "
    "Triu Vander Cross CDist",
    _INTEGERS: "BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift "
    "BitwiseXor Gcd Lcm LeftShift RightShift Ldexp Nextafter View Bincount Digitize IsIn MultiHot "
    "OneHot SearchSorted UnravelIndex",
    _LOSS: "BinaryCrossentropy CTCDecode CTCLoss CategoricalCrossentropy InTopK PSNR SSIM "
    "SparseCategoricalCrossentropy AllClose Isclose",
    _SPECTRUM: "FFT FFT2 IFFT2 IRFFT ISTFT RFFT STFT ExtractSequences Correlate",
    _FLAT: "Ravel SegmentMax SegmentMin SegmentProd SegmentReduction SegmentSum Vsplit",
    _SHAPE: "Histogram Ndim Nonzero Size Unique",
    _MAKES: "Arange EmptyLike Full Geomspace Linspace Logspace Meshgrid",
    _COLOUR: "HSVToRGB RGBToGrayscale RGBToHSV",
    _SPREADS: "AffineTransform ElasticTransform MapCoordinates PerspectiveTransform "
    "ScaleAndTranslate Scatter ScatterUpdate SliceUpdate",
    "adds an axis of two gradients behind the channels": "SobelEdges",
    "adds patches up again, in which every channel lies several times": "Fold",
    "jumps at 0, where new channels would start": "Heaviside",
    "makes complex numbers": "Angle Polar ViewAsComplex ViewAsReal",
}


class RefusedRule(Rule):
    """A known layer or op that no rule can make exact."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def flow(self, call: Call, inputs: list, space: Space) -> list:
        if any(x is not None for x in inputs):
            space.refuse(call, inputs, self.reason)
        return [None] * len(call.outputs)


for _reason, _names in LAYERS.items():
    for _name in _names.split():
        _cls = getattr(keras.layers, _name, None)  # some exist only in newer releases
        if _cls is not None and find(_cls) is None:
            register(_cls)(RefusedRule(_reason))
for _reason, _names in OPS.items():
    for _name in _names.split():
        if find(f"ops.{_name}") is None:
            register(f"ops.{_name}")(RefusedRule(_reason))
