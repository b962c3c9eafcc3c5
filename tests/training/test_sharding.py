"""Every parameter that we train has names for its axes, and no large one stays whole."""

import logging
import math
from functools import partial
from unittest.mock import Mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from igpt_jax.baselines.gan import GANConfig, init_gan
from igpt_jax.baselines.vae import VAEConfig, init_vae
from igpt_jax.finetuning.head import ClassHead, HeadConfig
from igpt_jax.finetuning.task import Parts, init_classifier
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.presets import imagegpt, llamagen
from igpt_jax.models.rar import RAR, rar
from igpt_jax.models.var import VAR, VARConfig
from igpt_jax.parameters import generator_inputs, tokenizer_input
from igpt_jax.partitioning import AXES
from igpt_jax.tokenizers.adversary import init_players
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.discriminators import (
    PatchDiscriminatorConfig,
    StyleDiscriminatorConfig,
    build_discriminator,
)
from igpt_jax.tokenizers.quantizers import (
    GumbelQuantizerConfig,
    MovingAverageQuantizerConfig,
    ResidualQuantizerConfig,
)
from igpt_jax.training.optimizer import OptimizerConfig, Player, make_optimizer
from igpt_jax.training.sharding import (
    LARGE,
    MeshConfig,
    axis_names,
    make_mesh,
    num_slices,
    param_shardings,
)
from igpt_jax.training.state import state_shardings

EVERYTHING = GPTConfig(
    vocab_size=1024,
    grid_shape=(8, 8),
    num_layers=2,
    num_heads=8,
    embed_dim=512,
    num_classes=100,
    class_factors=(10, 10),
    attribute_sizes=(3, 5),
    caption_len=16,
    caption_vocab_size=256,
    cond_image=True,
    order="any",
    qk_norm=True,
    use_bias=True,
    norm="layer",
)


def of_generator(model):
    return lambda key: model.init(key, *generator_inputs(model))["params"]


def of_tokenizer(discriminator=None, **changes):
    """The published widths, fewer of the blocks that are all alike."""
    few = {"channel_multipliers": (4,), "num_res_blocks": 1, "image_size": 32, "middle": False}
    model = Autoencoder(AutoencoderConfig(**few | changes))
    if discriminator is None:
        return lambda key: model.init(key, tokenizer_input(model))["params"]
    other = build_discriminator(discriminator)
    return lambda key: init_players(model, other, tokenizer_input(model), key)


def of_classifier(key):
    gpt = GPT(imagegpt("S"))
    head = ClassHead(HeadConfig("attention", num_heads=8), 1_000)
    return init_classifier(Parts(None, gpt, head), key)


RESIDUAL = ResidualQuantizerConfig()
TRAINED = {
    "llamagen": of_generator(GPT(llamagen("3B"))),
    "everything": of_generator(GPT(EVERYTHING)),
    "text": of_generator(GPT(llamagen("B", num_classes=0, text_len=120, text_dim=2048))),
    "rar": of_generator(RAR(rar("B"))),
    "var": of_generator(VAR(VARConfig())),
    "classifier": of_classifier,
    "patch": of_tokenizer(PatchDiscriminatorConfig()),
    "style": of_tokenizer(StyleDiscriminatorConfig(), quantizer=GumbelQuantizerConfig()),
    "moving": of_tokenizer(quantizer=MovingAverageQuantizerConfig()),
    "video": of_tokenizer(num_frames=5, temporal_downsample=4, quantizer=RESIDUAL),
    "gan": partial(init_gan, GANConfig(image_size=64, num_classes=100)),
    "vae": partial(init_vae, VAEConfig(image_size=64, num_classes=100)),
}


def simulated_mesh(*shape):
    """A mesh to ask where arrays would lie; its devices are one and the same."""
    return Mesh(np.full(shape, jax.devices()[0]), AXES)


@pytest.fixture(scope="module", params=TRAINED)
def abstract(request):
    return jax.eval_shape(TRAINED[request.param], jax.random.key(0))


def names_of(boxed):
    found = jax.tree_util.tree_leaves_with_path(
        axis_names(boxed), is_leaf=lambda x: x is None or isinstance(x, PartitionSpec)
    )
    return {jax.tree_util.keystr(path, simple=True, separator="/"): spec for path, spec in found}


def test_every_parameter_has_a_name_for_each_axis(abstract):
    names, leaves = names_of(abstract), jax.tree.leaves(nn.unbox(abstract))
    assert len(names) == len(leaves)
    assert [name for name, spec in names.items() if spec is None] == []
    assert [
        name for (name, spec), leaf in zip(names.items(), leaves, strict=True)
        if len(spec) != leaf.ndim
    ] == []  # fmt: skip


def test_a_parameter_without_names_is_found():
    boxed = {"dense": {"kernel": jnp.zeros((2, 3)), "matrix": jnp.zeros((2, 3))}}
    assert [name for name, spec in names_of(boxed).items() if spec is None] == ["dense/matrix"]


def whole_and_large(shardings, params):
    """Large arrays that all devices hold, though an axis of them divides."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        jax.tree_util.keystr(path)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
        if leaf.size >= LARGE
        and any(size % 8 == 0 for size in leaf.shape)
        and math.prod(sharding.shard_shape(leaf.shape)) * 8 != leaf.size
    ]


def test_eight_devices_each_hold_an_eighth_of_what_is_large(abstract):
    shardings = param_shardings(abstract, simulated_mesh(1, 8, 1))
    assert whole_and_large(shardings, nn.unbox(abstract)) == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", ["everything", "patch"])
def test_moments_and_averages_lie_as_the_parameters(optimizer, name):
    """By shape: each array of the state as large as a kernel lies as it does."""
    players = {"discriminator": Player(OptimizerConfig(), 5)} if name == "patch" else {}
    made = make_optimizer(OptimizerConfig(name=optimizer), 10, players)
    boxed = jax.eval_shape(TRAINED[name], jax.random.key(0))
    state = state_shardings(TRAINED[name], made, simulated_mesh(1, 4, 2))
    params = nn.unbox(boxed)
    assert state.ema_params == state.params
    shapes = {
        (leaf.shape, sharding.spec)
        for leaf, sharding in zip(
            jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True
        )
    }
    moments = jax.tree.leaves(jax.eval_shape(made.init, params))
    laid = list(zip(moments, jax.tree.leaves(state.opt_state), strict=True))
    large = [(leaf.shape, sharding.spec) for leaf, sharding in laid if leaf.size >= LARGE]
    assert len(large) > 10
    assert set(large) <= shapes


def test_the_log_names_what_does_not_divide(caplog):
    boxed = {"kernel": jax.ShapeDtypeStruct((600, 601), jnp.float32)}
    with caplog.at_level(logging.WARNING):
        shardings = param_shardings(boxed, simulated_mesh(1, 8, 1))
    assert shardings["kernel"].is_fully_replicated
    assert "1 large parameters stay whole" in caplog.text
    assert "kernel" in caplog.text


def device(index, platform):
    """A device of a host or slice of eight, as JAX numbers them."""
    return Mock(
        spec=jax.Device, id=index, platform=platform, device_kind=platform, slice_index=index // 8
    )


@pytest.mark.parametrize(("platform", "slices"), [("gpu", 1), ("tpu", 4), ("cpu", 1)])
def test_slices_are_those_of_tpus(platform, slices):
    """JAX numbers the hosts of GPUs as slices, too, and a copy may lie over several."""
    devices = [device(index, platform) for index in range(32)]
    assert num_slices(devices) == slices
    if platform == "gpu":
        assert make_mesh(MeshConfig(fsdp=16), devices).shape["fsdp"] == 16
