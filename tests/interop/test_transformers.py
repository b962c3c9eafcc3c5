"""Parity with transformers itself; it is no dependency, and runs where it is installed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import interop
from igpt_jax.interop.exporting import export
from igpt_jax.interop.importing import import_part
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the peers


def numbers(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


def randomize(module):
    """Weights that matter: transformers starts some at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias") and "imagegpt" in type(module).__module__:
                parameter.zero_()
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            fan = np.sqrt(np.prod(parameter.shape[1:])) if parameter.ndim > 1 else 10.0
            parameter.copy_(noise / fan + (parameter.ndim == 1 and "weight" in name))
    return module.eval()


def image_gpt(head_dim, num_heads, num_layers):
    config = transformers.ImageGPTConfig(
        vocab_size=33, n_positions=16, n_embd=head_dim * num_heads, n_layer=num_layers,
        n_head=num_heads, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return randomize(transformers.ImageGPTForCausalImageModeling(config))


@pytest.mark.parametrize(
    ("head_dim", "num_heads", "num_layers"), [(64, 2, 2), (96, 2, 3), (100, 1, 2)]
)
def test_imagegpt(head_dim, num_heads, num_layers):
    theirs = image_gpt(head_dim, num_heads, num_layers)
    weights = {name: array for name, array in numbers(theirs).items() if "attn.bias" not in name}
    model, params = interop.convert(weights, "imagegpt", num_heads=num_heads)
    tokens = np.random.default_rng(0).integers(0, 32, (3, 16))
    with torch.no_grad():
        fed = torch.from_numpy(np.concatenate([np.full((3, 1), 32), tokens[:, :-1]], axis=1))
        expected = theirs(fed).logits.numpy()
        drawn = torch.full((2, 1), 32)
        for _ in range(16):
            best = theirs(drawn).logits[:, -1].argmax(-1, keepdim=True)
            drawn = torch.cat([drawn, best], dim=1)
    logits = jax.jit(model.apply)({"params": params}, jnp.asarray(tokens[:, :-1], jnp.int32))
    assert_close(np.asarray(logits), expected)
    sampling = SamplingConfig(temperature=0).rows(2)
    ours = generate(model, params, image_keys(0, np.arange(2)), None, sampling)
    np.testing.assert_array_equal(ours, drawn[:, 1:].numpy())


def test_transformers_loads_what_we_export(tmp_path):
    theirs = image_gpt(96, 2, 2)
    theirs.save_pretrained(tmp_path / "theirs")
    clusters = np.random.default_rng(0).uniform(-1, 1, (32, 3)).astype(np.float32)
    np.save(tmp_path / "clusters.npy", clusters)
    import_part(str(tmp_path / "clusters.npy"), "palette", tmp_path / "ours", image_size=4)
    import_part(str(tmp_path / "theirs"), "imagegpt", tmp_path / "ours", num_heads=2)
    export(tmp_path / "ours", tmp_path / "back", layout="transformers")
    again = transformers.ImageGPTForCausalImageModeling.from_pretrained(tmp_path / "back").eval()
    tokens = torch.randint(0, 32, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_array_equal(theirs(tokens).logits, again(tokens).logits)
    processor = transformers.ImageGPTImageProcessor.from_pretrained(tmp_path / "back")
    np.testing.assert_allclose(np.asarray(processor.clusters), clusters, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "multipliers", "blocks"), [(32, [1, 2], 1), (64, [1, 1, 2], 2)]
)
def test_janus_vq(channels, multipliers, blocks):
    config = transformers.JanusVQVAEConfig(
        base_channels=channels, channel_multiplier=multipliers, embed_dim=8, num_embeddings=64,
        latent_channels=16, num_res_blocks=blocks, image_size=32,
        num_patches=32 // 2 ** (len(multipliers) - 1),
    )  # fmt: skip
    theirs = randomize(transformers.JanusVQVAE(config))
    # transformers compares latents with the codes as they are, Janus' own code their directions,
    # as we do: the nearest is the same where codes have length 1.
    codes = theirs.quantize.embedding.weight.data
    codes /= codes.norm(dim=1, keepdim=True)
    model, params = interop.convert(numbers(theirs), "janus-vq", image_size=32)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        hidden = theirs.quant_conv(theirs.encoder(pixels)).permute(0, 2, 3, 1).numpy()
        tokens = theirs.encode(pixels).image_tokens.reshape(2, -1).numpy()
        pictures = theirs.decode(torch.from_numpy(tokens))
        pictures = pictures.permute(0, 2, 3, 1).numpy()

    def run(argument, method):
        return jax.jit(partial(model.apply, method=method))({"params": params}, argument)

    np.testing.assert_allclose(run(jnp.asarray(images), "latents"), hidden, atol=1e-3)
    assert np.mean(run(jnp.asarray(images), "encode") == tokens) >= 0.999
    decoded = run(jnp.asarray(tokens, jnp.int32), "decode")
    np.testing.assert_allclose(decoded, pictures, atol=1e-3)


@pytest.mark.parametrize(
    ("head_dim", "num_heads", "activation"),
    [(64, 2, "gated-gelu"), (96, 2, "relu"), (100, 3, "gated-gelu")],
)
def test_t5_encoder(head_dim, num_heads, activation):
    config = transformers.T5Config(
        vocab_size=50, d_model=48, d_kv=head_dim, d_ff=64, num_layers=3, num_heads=num_heads,
        feed_forward_proj=activation, dropout_rate=0,
    )  # fmt: skip
    theirs = transformers.T5EncoderModel(config)
    theirs = randomize(theirs)
    model, params = interop.convert(numbers(theirs), "t5-encoder")
    tokens = np.random.default_rng(0).integers(1, 50, (3, 20))
    mask = np.arange(20) < np.array([[20], [7], [1]])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask).long())
    ours = model.apply({"params": params}, jnp.asarray(tokens, jnp.int32), jnp.asarray(mask))
    assert_close(np.asarray(ours)[mask], expected.last_hidden_state.numpy()[mask])
