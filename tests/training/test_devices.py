"""Eight simulated devices compute what one does, share what they should and send what they must."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from igpt_jax.training.metrics import read_metrics

REPOSITORY = Path(__file__).parent.parent.parent
MESHES = {"one": (1, {}), "fsdp and tensor": (4, {"mesh.fsdp": 2, "mesh.tensor": 2})}
SHAPES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (4, 2, 1), (2, 2, 2), (1, 4, 2), (2, 1, 4)]
CONVOLUTIONS = [shape for shape in SHAPES if shape != (1, 1, 8)]
BATCH_SIZE, SEQ_LEN, EMBED, MLP, VOCAB = 16, 16, 64, 128, 512
ONE = "(1, 1, 1)"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("meshes")]


def environment(num_devices):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What happened on all meshes, see `meshes.py`."""
    path = tmp_path_factory.mktemp("meshes") / "found.json"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "meshes.py"), str(path)],
        cwd=REPOSITORY,
        env={**environment(8), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1_200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def compare(found, kind, shape, names):
    one, many = (found[kind][key]["metrics"] for key in (ONE, str(shape)))
    for name in names:
        assert len(one[name]) == 20
        np.testing.assert_allclose(many[name], one[name], atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_of_the_gpt_are_those_of_one_device(found, shape):
    compare(found, "gpt", shape, ["loss", "grad_norm"])


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_losses_of_both_players_are_those_of_one_device(found, shape):
    names = ["loss", "discriminator_loss", "adversarial_loss", "perplexity", "grad_norm"]
    compare(found, "vqgan", shape, names)


def test_accumulated_gradients_are_those_of_one_device(found):
    compare(found, "accumulated", (1, 4, 2), ["loss", "grad_norm"])


def collectives(found, kind, shape, *names):
    """Shapes of what collectives of some kinds give a device; single numbers left out."""
    sent = found[kind][str(shape)]["collectives"]
    return [tuple(dims) for name, dims in sent if name in names and math.prod(dims) > BATCH_SIZE]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_step_of_the_gpt_gathers_one_layer_at_a_time(found, shape):
    """Of all, only the tables of the vocabulary are larger than a layer's largest kernel."""
    _, fsdp, tensor = shape
    gathered = collectives(found, "gpt", shape, "all-gather")
    floats = [dims for dims in gathered if dims[-1] != 1]  # ids have an axis of one number
    assert bool(floats) == (fsdp > 1)
    large = {dims for dims in floats if math.prod(dims) > EMBED * MLP}
    assert large <= {(EMBED, VOCAB // tensor), (VOCAB // tensor, EMBED)}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_stay_where_they_are(found, shape):
    """Of a vocabulary that is split, a number a token travels."""
    kinds = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    rows = BATCH_SIZE // (shape[0] * shape[1])
    sent = collectives(found, "gpt", shape, *kinds)
    widths = {VOCAB, VOCAB // shape[2]} - {EMBED}
    assert not [dims for dims in sent if SEQ_LEN in dims and set(dims) & widths]
    assert (shape[2] == 1) or ([rows, SEQ_LEN] in [
        dims for name, dims in found["gpt"][str(shape)]["collectives"] if name == "all-reduce"
    ])  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_step_of_the_gpt_adds_up_gradients_and_activations(found, shape):
    data, fsdp, tensor = shape
    summed = collectives(found, "gpt", shape, "all-reduce", "reduce-scatter")
    kernel = {(EMBED, MLP // tensor), (EMBED // fsdp, MLP // tensor)}
    assert bool(kernel & set(summed)) == (data * fsdp > 1)
    activations = (BATCH_SIZE // (data * fsdp), SEQ_LEN + 1, EMBED)  # two of a class before
    assert (activations in summed) == (tensor > 1)


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_the_step_of_both_players_gathers_one_array_at_a_time(found, shape):
    """No activations, which are larger here than any of them."""
    gathered = set(collectives(found, "vqgan", shape, "all-gather"))
    assert bool(gathered) == (shape[1] > 1)
    assert gathered <= {tuple(dims) for dims in found["shapes"]["vqgan"]}
    assert collectives(found, "vqgan", shape, "all-reduce", "reduce-scatter")


def test_no_device_ever_holds_a_whole_large_parameter(found):
    """From the first on: the program that creates the state."""
    created = found["creation"]
    large = {tuple(dims) for dims in found["shapes"]["gpt"] if math.prod(dims) > EMBED * MLP}
    assert len(large) > 5
    assert not large & {tuple(dims) for dims in created["shapes"]}
    assert created["output"] < 1.1 * created["total"] / 8
    assert created["temporary"] < created["total"] / 8


def test_a_checkpoint_of_eight_devices_lies_on_others_as_it_should(found):
    for mesh, (num_arrays, num_equal) in found["restored"].items():
        assert num_arrays > 50
        assert num_equal == num_arrays, mesh


def test_the_pallas_kernel_on_a_mesh_runs_by_rows_and_heads(found):
    assert found["splash"]["distance"] < 1e-5
    assert "('data', 'fsdp'), None, 'tensor'" in found["splash"]["lies"]


def train(config, workdir, num_devices, settings):
    """Trains in a process of its own, which has so many devices."""
    done = subprocess.run(
        [sys.executable, "train.py", str(config), "--workdir", str(workdir)]
        + [f"--{name}={value}" for name, value in settings.items()],
        cwd=REPOSITORY,
        env=environment(num_devices),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def test_tokens_of_eight_devices_are_those_of_one(tiny_run, tmp_path):
    """Batches of 20 are made larger, and the last one, of four, is."""
    for number in (1, 8):
        train("configs/debug.py", tmp_path / str(number), number, {
            "tokenizer_path": tiny_run, "last_stage": "tokens", "encoding.batch_size": 20,
            "encoding.views": "mirrored",
        })  # fmt: skip
    files = sorted(path.relative_to(tmp_path / "1") for path in tmp_path.glob("1/tokens/*/*"))
    assert len(files) == 2 * 5
    for name in files:
        assert (tmp_path / "8" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


ROWS = """
import jax.numpy as jnp
import numpy as np
from igpt_jax.programs import on_all_devices
from igpt_jax.tokenizers.kmeans import nearest
from igpt_jax.training.sharding import MeshConfig, make_mesh, replicated
import jax
mesh, seen = make_mesh(MeshConfig(fsdp=2, tensor=2)), []
centers = jax.device_put(jnp.arange(12.0)[:, None], replicated(mesh))
def program(params, rows):
    seen.append(rows.shape)
    return nearest(rows.reshape(len(rows), -1, 1), params, chunk_size=3)
find = on_all_devices(program, centers, mesh, 20)
for count in (1, 20, 50):
    rows = np.random.default_rng(count).integers(0, 12, (count, 5, 1)).astype(np.float32)
    np.testing.assert_array_equal(find(rows), rows[..., 0])
print(seen)
"""


def test_each_device_has_its_own_rows_alone():
    """Also of a program that goes through them in chunks; one size is compiled."""
    done = subprocess.run(
        [sys.executable, "-c", ROWS], cwd=REPOSITORY, env=environment(8),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[(3, 5, 1)]\n"


def losses(workdir, num_devices, overrides):
    settings = {
        "tokenizer_training.num_steps": 20,
        "gpt_training.num_steps": 20,
        "gpt.dtype": "float32",
        **overrides,
    }
    train("configs/debug.py", workdir, num_devices, settings)
    return {
        stage: np.array([row["loss"] for row in read_metrics(workdir / stage, "train")])
        for stage in ("tokenizer", "gpt")
    }


def test_a_whole_run_on_four_devices_gives_the_losses_of_one(tmp_path):
    one, four = (
        losses(tmp_path / str(number), *MESHES[name])
        for number, name in enumerate(("one", "fsdp and tensor"))
    )
    for stage in ("tokenizer", "gpt"):
        assert len(one[stage]) == 20
        np.testing.assert_allclose(four[stage], one[stage], atol=1e-5)
