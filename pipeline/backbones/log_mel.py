"""Whisper's log-mel spectrogram, as its networks were trained on."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor
from torchaudio.functional import melscale_fbanks


def log_mel(sound: Float32[Tensor, "B samples"], *, bands: int) -> Float32[Tensor, "B bands hops"]:
    """(B, bands, samples / 160) float32 of sound at 16 kHz, each window within 8 decades of its loudest point."""
    window = torch.hann_window(400, device=sound.device)
    spectrum = torch.stft(sound, 400, hop_length=160, window=window, return_complex=True)[..., :-1].abs() ** 2
    mel = melscale_fbanks(201, 0.0, 8000.0, bands, 16000, norm="slaney", mel_scale="slaney").to(sound.device)
    log = (mel.T @ spectrum).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4
