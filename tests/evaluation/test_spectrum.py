"""The power spectrum on pictures whose spectrum is known, and what an adversary does to it."""

import dataclasses

import jax
import numpy as np
import pytest

from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.data.transforms import transform
from igpt_jax.evaluation.spectrum import high_frequency_energy, radial_power_spectrum
from igpt_jax.programs import decode_tokens, encode_images
from igpt_jax.run import run
from igpt_jax.stored import load_tokenizer
from igpt_jax.testing import tiny_config
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig


@pytest.mark.parametrize("periods", [2, 5, 11])
def test_a_wave_has_its_power_at_its_frequency(periods):
    phase = 2 * np.pi * periods * np.arange(32) / 32
    wave = np.round(127.5 + 100 * np.sin(phase)).astype(np.uint8)
    images = np.broadcast_to(wave[None, None, :, None], (2, 32, 32, 3))
    for pictures in (images, images.transpose(0, 2, 1, 3)):
        spectrum = radial_power_spectrum(pictures)
        assert len(spectrum) == 16
        assert spectrum.argmax() == periods
        # The window spreads a wave over its neighbours, not further.
        assert spectrum[max(periods - 2, 0) : periods + 3].sum() > 0.99 * spectrum.sum()


def test_white_noise_is_flat_and_has_its_variance():
    images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    spectrum = radial_power_spectrum(images)
    window = np.outer(np.hanning(32), np.hanning(32))
    np.testing.assert_allclose(spectrum[2:], (window**2).mean() / 12, rtol=0.05)


def test_blur_takes_high_frequencies():
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(float)
    energies = []
    for _ in range(3):
        energies.append(high_frequency_energy(np.round(images).astype(np.uint8)))
        images = (images + np.roll(images, 1, 1) + np.roll(images, 1, 2) + images) / 4
    assert energies[0] > 1.5 * energies[1] > 1.5**2 * energies[2]


def detail_config(steps, peak_lr, **changes):
    tiny = tiny_config(last_stage="tokenizer", **changes)
    return dataclasses.replace(
        tiny,
        data=CardsConfig(num_cards=512, num_validation=64, image_size=32),
        tokenizer=dataclasses.replace(
            tiny.tokenizer,
            base_channels=32,
            latent_channels=16,
            channel_multipliers=(1,),
            patch_size=8,
        ),
        tokenizer_training=TrainConfig(
            num_steps=steps,
            global_batch_size=16,
            optimizer=OptimizerConfig(
                peak_lr=peak_lr, end_lr_ratio=1.0, warmup_steps=5, weight_decay=0.0
            ),
            ema_decay=0.9,
            eval_every=steps,
            eval_batches=1,
            picture_every=0,
            checkpoint_every=steps,
        ),
        discriminator_optimizer=OptimizerConfig(
            peak_lr=2e-3, end_lr_ratio=1.0, warmup_steps=0, beta1=0.5, beta2=0.9, weight_decay=0.0
        ),
    )


@pytest.mark.slow
def test_an_adversary_brings_detail_back(tmp_path):
    """Three hundred more steps, with and without a discriminator, from the same blurred start."""
    run(detail_config(300, 2e-3), tmp_path / "start")
    adversary = AdversaryConfig(
        PatchDiscriminatorConfig(base_channels=16, num_layers=2),
        weight=0.8,  # VQGAN's; at 3 the discriminator wins and nothing comes back
        start_step=50,
        lead_steps=50,
    )
    going_on = detail_config(300, 5e-4, tokenizer_start=str(tmp_path / "start"))
    run(going_on, tmp_path / "without")
    run(dataclasses.replace(going_on, adversary=adversary), tmp_path / "with")
    source = CardSource(going_on.data, "validation")
    generator = np.random.default_rng(0)
    originals = np.stack(
        [transform(going_on.transform, source[i]["image"], generator) for i in range(64)]
    )
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    missing = {}
    for name in ("without", "with"):
        tokenizer, params = load_tokenizer(going_on.tokenizer, tmp_path / name, device)
        tokens = encode_images(tokenizer, params, originals)
        decoded = np.asarray(decode_tokens(tokenizer, params, tokens))
        share = high_frequency_energy(decoded) / high_frequency_energy(originals)
        missing[name] = abs(1 - share)
    assert missing["without"] > 0.3  # blurred, or there is nothing to show
    assert missing["with"] < 0.9 * missing["without"]
