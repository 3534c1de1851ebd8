"""Make the golden log-mels, each by an implementation that is not ours, from the project's root:
`python -m tests.pipeline.taggers.golden.log_mels`.

log_mel_<tagger>.npz holds `log_mel` (frames, mels) of `golden.sound(rate)` and, as `made_by`, what made it.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
import torchaudio.compliance.kaldi as kaldi
import transformers
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

from tests.pipeline.taggers.golden import Floats, sound

FOLDER = Path(__file__).parent


def panns(rate: int, n_fft: int, hop: int, highest_hz: int) -> tuple[Floats, str]:
    """PANNs' own front end, a convolution with the Fourier basis and librosa's mel bank."""
    spectrogram = Spectrogram(n_fft=n_fft, hop_length=hop, win_length=n_fft)
    log_mel = LogmelFilterBank(sr=rate, n_fft=n_fft, n_mels=64, fmin=50, fmax=highest_hz, top_db=None)
    with torch.no_grad():
        found: Floats = log_mel(spectrogram(torch.from_numpy(sound(rate)[None])))[0, 0].numpy()
    return found, _versions("torchlibrosa", "librosa")


def yamnet() -> tuple[Floats, str]:
    """YAMNet's features.py with torch's STFT, and Kaldi's mel bank, whose triangles are straight in mel like
    TensorFlow's.
    """
    window = torch.nn.functional.pad(torch.hann_window(400, periodic=True), (0, 112))
    magnitudes = torch.stft(
        torch.from_numpy(sound(16000)), 512, 160, window=window, center=False, return_complex=True
    ).abs()
    bank, _ = kaldi.get_mel_banks(64, 512, 16000.0, 125.0, 7500.0, 100.0, -500.0, 1.0)
    return torch.log(bank @ magnitudes[:256] + 0.001).T.numpy(), _versions("torch", "torchaudio")


def efficientat() -> tuple[Floats, str]:
    """EfficientAT's preprocess.py with librosa's STFT and Kaldi's mel bank."""
    x = sound(32000)
    window = librosa.util.pad_center(np.hanning(800), size=1024)
    spectrum = librosa.stft(
        x[1:] - 0.97 * x[:-1], n_fft=1024, hop_length=320, window=window, center=True, pad_mode="reflect"
    )
    bank, _ = kaldi.get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)
    log_mel = np.log(bank.numpy() @ np.abs(spectrum[:512]) ** 2 + 1e-5)
    return ((log_mel + 4.5) / 5).T.astype(np.float32), _versions("librosa", "torchaudio")


def ast() -> tuple[Floats, str]:
    """ASTFeatureExtractor, which calls torchaudio's Kaldi filter bank; the first 200 of its 1,024 frames, the last of
    which are filling.
    """
    extractor: Any = transformers.ASTFeatureExtractor
    features = extractor()(sound(16000), sampling_rate=16000, return_tensors="np")["input_values"]
    return np.asarray(features[0, :200], dtype=np.float32), _versions("transformers", "torchaudio")


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def main() -> None:
    """Write them all beside this script."""
    made = {
        "panns": panns(32000, 1024, 320, 14000),
        "panns_16k": panns(16000, 512, 160, 8000),
        "yamnet": yamnet(),
        "efficientat": efficientat(),
        "ast": ast(),
    }
    for name, (log_mel, by) in made.items():
        np.savez_compressed(FOLDER / f"log_mel_{name}.npz", log_mel=log_mel, made_by=np.array(by))
        print(f"{name}: {log_mel.shape}, by {by}")


if __name__ == "__main__":
    main()
