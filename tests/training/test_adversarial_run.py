"""A run with two players and a moving codebook: resumed, and on four devices, it is the same."""

import shutil

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from test_devices import MESHES, train

from igpt_jax.config import load_config_file
from igpt_jax.run import run
from igpt_jax.training.metrics import read_metrics

CONFIG = """
import dataclasses

from igpt_jax.testing import tiny_config
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.discriminators import PatchDiscriminatorConfig
from igpt_jax.tokenizers.quantizers import MovingAverageQuantizerConfig
from igpt_jax.training.optimizer import OptimizerConfig


def get_config():
    tiny = tiny_config(last_stage="tokenizer")
    quantizer = MovingAverageQuantizerConfig(32, 4, restart_below=0.3)
    return dataclasses.replace(
        tiny,
        tokenizer=dataclasses.replace(tiny.tokenizer, quantizer=quantizer),
        tokenizer_training=dataclasses.replace(
            tiny.tokenizer_training, num_steps=12, checkpoint_every=3, keep_last=4,
            optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=2),
        ),
        adversary=AdversaryConfig(
            PatchDiscriminatorConfig(base_channels=8, num_layers=1),
            start_step=4, lead_steps=2, lecam_weight=0.1,
        ),
    )
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "adversarial.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def undisturbed(config_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    run(load_config_file(config_file), workdir)
    return workdir


def final_arrays(workdir):
    items = ocp.load_checkpointables(workdir / "tokenizer/checkpoints/12")
    arrays = {name: items[name] for name in ("params", "ema_params", "optimizer")}
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_both_players_learn_and_only_one_is_averaged(undisturbed):
    arrays = final_arrays(undisturbed)
    assert any("['params']['discriminator']['network']" in name for name in arrays)
    assert not any("['ema_params']" in name and "discriminator" in name for name in arrays)
    rows = read_metrics(undisturbed / "tokenizer", "train")
    assert [row["adversarial_weight"] > 0 for row in rows] == [row["step"] > 4 for row in rows]
    assert [row["discriminator_loss"] > 0 for row in rows] == [row["step"] > 2 for row in rows]
    assert rows[-1]["discriminator_grad_norm"] > 0
    assert arrays["['params']['discriminator']['running_real']"] != 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_run_that_goes_on_ends_with_the_same_bits(undisturbed, config_file, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    for step in (6, 9, 12):
        shutil.rmtree(workdir / f"tokenizer/checkpoints/{step}")
    run(load_config_file(config_file), workdir)
    expected, got = final_arrays(undisturbed), final_arrays(workdir)
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.slow
def test_four_devices_play_as_one(undisturbed, config_file, tmp_path):
    train(config_file, tmp_path, *MESHES["fsdp and tensor"])
    expected, got = (
        read_metrics(workdir / "tokenizer", "train") for workdir in (undisturbed, tmp_path)
    )
    assert len(expected) == len(got) == 12
    for name in ("loss", "discriminator_loss", "real_logits", "adversarial_weight", "perplexity"):
        np.testing.assert_allclose(
            [row[name] for row in got], [row[name] for row in expected], rtol=1e-4, atol=1e-5
        )
