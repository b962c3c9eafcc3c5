"""How much of each spatial frequency pictures have: blur shows as missing high frequencies."""

import numpy as np

from igpt_jax.typing import Float, UInt8


def radial_power_spectrum(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, " r"]:
    """Return the mean power at each whole spatial frequency, up to half the shorter side.

    Pixels are in [0, 1], less each picture's mean and under a Hann window, as the jump from border
    to border would look like detail. Power is averaged over pictures, channels and directions
    (Durall et al. 2020, section 3.1); entry r holds r to r + 1 periods over the shorter side.

    Args:
        images: pictures.
    """
    pixels = np.asarray(images, np.float64) / 255.0
    height, width = pixels.shape[1:3]
    pixels = pixels - pixels.mean(axis=(1, 2), keepdims=True)
    window = np.outer(np.hanning(height), np.hanning(width))[None, :, :, None]
    power = np.abs(np.fft.fft2(pixels * window, axes=(1, 2))) ** 2 / (height * width)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    radius = (np.hypot(rows, columns) * min(height, width)).astype(int)
    mean = power.mean(axis=(0, 3))
    totals = np.bincount(radius.reshape(-1), mean.reshape(-1))
    counts = np.bincount(radius.reshape(-1))
    return (totals / np.maximum(counts, 1))[: min(height, width) // 2]


def high_frequency_energy(images: UInt8[np.ndarray, "n h w c"]) -> float:
    """Return the power above a quarter of the sampling rate, half of what pixels can show."""
    spectrum = radial_power_spectrum(images)
    return float(spectrum[len(spectrum) // 2 :].sum())
