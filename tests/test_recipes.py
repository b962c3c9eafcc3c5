"""Recipes against what their papers publish."""

import pytest

from igpt_jax.recipes import NUM_PICTURES, imagenet_imagegpt, imagenet_llamagen

# FID of 50,000 samples at 256 pixels by guidance, after the epochs of the longest run (Sun et al.
# 2024, table 8).
LLAMAGEN = {
    "B": (300, {1.5: 8.738, 1.75: 6.116, 2.0: 5.464, 2.25: 5.641, 2.5: 6.390}),
    "L": (300, {1.5: 4.079, 1.75: 3.805, 2.0: 4.407}),
    "XL": (50, {1.5: 4.808, 1.75: 3.391, 2.0: 3.642}),
    "XXL": (50, {1.5: 3.844, 1.75: 3.094, 2.0: 3.644}),
    "3B": (50, {1.5: 3.050, 1.75: 3.063, 2.0: 4.212}),
}
RATES = {"B": 1e-4, "L": 1e-4, "XL": 2e-4, "XXL": 2e-4, "3B": 2e-4}  # its code's issue 8


@pytest.mark.parametrize("size", LLAMAGEN)
def test_llamagen(size):
    epochs, fid = LLAMAGEN[size]
    config = imagenet_llamagen(size)
    training = config.gpt_training
    assert config.sampling.cfg_scale == min(fid, key=fid.get)
    assert training.num_steps * training.global_batch_size == pytest.approx(
        epochs * NUM_PICTURES, rel=0.01
    )
    optimizer = training.optimizer
    assert optimizer.peak_lr == RATES[size] == 1e-4 * training.global_batch_size / 256
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (0.9, 0.95, 0.05)
    assert (optimizer.clip_norm, optimizer.warmup_steps, optimizer.end_lr_ratio) == (1.0, 0, 1.0)
    gpt = config.gpt
    assert (gpt.embed_dropout, gpt.residual_dropout, gpt.cond_drop_prob) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize(("size", "rate"), [("S", 3e-3), ("M", 3e-3), ("L", 1e-3)])
def test_imagegpt(size, rate):
    """Chen et al. 2020, section 3.4 and appendix A.1."""
    config = imagenet_imagegpt(size, 32)
    training, optimizer = config.gpt_training, config.gpt_training.optimizer
    assert (training.num_steps, training.global_batch_size) == (1_000_000, 128)
    assert (optimizer.peak_lr, optimizer.end_lr_ratio, optimizer.weight_decay) == (rate, 0.0, 0.0)
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.95)
    epoch = 0.96 * NUM_PICTURES / 128  # of what is not kept for validation
    assert optimizer.warmup_steps == pytest.approx(epoch, rel=0.001)
    assert (config.gpt.embed_dropout, config.gpt.residual_dropout) == (0.0, 0.0)
