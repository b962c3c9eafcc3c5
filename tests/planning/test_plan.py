"""What a plan tells, with compilers that stand for the real one, and with the real ones."""

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from igpt_jax import cli
from igpt_jax.data.sources import open_source
from igpt_jax.errors import UserError
from igpt_jax.planning import child
from igpt_jax.planning.batches import picture_batch, token_batch
from igpt_jax.planning.collectives import Collective
from igpt_jax.planning.compiling import Compiled, compile_program
from igpt_jax.planning.estimate import estimate
from igpt_jax.planning.plan import plan
from igpt_jax.planning.programs import Program, lower
from igpt_jax.planning.sweep import sweep
from igpt_jax.planning.topology import GIB, parse_topology
from igpt_jax.recipes import imagenet_llamagen
from igpt_jax.starting import picture_batches
from igpt_jax.testing import tiny_asked_config, tiny_config, tiny_video_config
from igpt_jax.training.sharding import MeshConfig, make_mesh, replicated

DEBUG = "configs/debug.py"


@pytest.mark.parametrize("make", [tiny_config, tiny_video_config])
def test_pictures_have_the_shapes_of_real_batches(make):
    config = make().resolved()
    source = open_source(config.data, "train")
    frames = getattr(config.tokenizer, "num_frames", 1)
    real = next(iter(picture_batches(config, source, "train", 8, num_frames=frames)))["image"]
    planned = picture_batch(config, 8)["image"]
    assert (planned.shape, planned.dtype) == (real.shape, real.dtype)


def test_tokens_have_everything_that_is_asked_of_a_model():
    plain = token_batch(tiny_config().resolved(), 8)
    assert {name: leaf.shape for name, leaf in plain.items()} == {"tokens": (8, 16), "label": (8,)}
    asked = token_batch(tiny_asked_config().resolved(), 4)
    assert {name: leaf.shape for name, leaf in asked.items()} == {
        "tokens": (4, 16),
        "caption": (4, 48),
        "caption_length": (4,),
        "cond_tokens": (4, 16),
    }


def test_estimate_adds_what_nothing_hides():
    """Times by hand: 197 TFLOP are a second of a v5e, a line along one axis sends 50 GB/s."""
    topology = parse_topology("v5e:4x4")
    hidden = Collective("all-gather", 4, 1, 100e9, 100e9, in_background=1.0)  # 1.5 s
    open_ = Collective("all-reduce", 2, 1, 25e9, 25e9)  # 0.5 s
    compiled = Compiled(
        {"parameters": GIB},
        {"total": 3 * GIB},
        model_flops=16 * 197e12,
        flops=2 * 197e12,
        hbm_bytes=819e9,
        busy_seconds=2.5,
        collectives=(hidden, open_),
    )
    found = estimate(compiled, topology)
    assert found.compute_seconds == pytest.approx(2)
    assert found.hbm_seconds == pytest.approx(1)
    assert found.network_seconds == pytest.approx(2)
    assert found.seconds == pytest.approx(3)  # 2.5 s busy, and the sum that waits
    assert found.mfu == pytest.approx(1 / 3)
    assert found.fits
    assert not estimate(dataclasses.replace(compiled, memory={"total": 17 * GIB}), topology).fits


def room_for(rows_of_a_device, seen):
    """A compiler that fits so many rows of a batch, and is faster with less sharding."""

    def compile_one(config, name, topology, batch_size):
        mesh = config.mesh
        seen.append((mesh.fsdp, mesh.tensor, batch_size))
        rows = batch_size * mesh.tensor / topology.num_chips
        return Compiled(
            {},
            {"total": int(rows * GIB)},
            1e12,
            fits=rows <= rows_of_a_device,
            capacity=2**40,
            flops=1e12,
            hbm_bytes=1e9,
            busy_seconds=1e-3 * batch_size * (1 + mesh.tensor + 0.01 * mesh.fsdp),
        )

    return compile_one


@pytest.mark.parametrize("room", [1, 2, 3, 7, 100])
def test_sweep_finds_the_largest_batch(room):
    seen: list = []
    config = tiny_config()
    found = sweep(
        config, parse_topology("v5e:2x2"), max_compiles=40, compile_one=room_for(room, seen)
    )
    assert found["fits"]
    assert found["largest_global_batch_size"] == room * 4 // found["mesh"]["tensor"]
    if room >= 2:  # the run's batch of 8 fits on copies, which are the fastest
        assert found["mesh"] == {"fsdp": 1, "tensor": 1}
    assert len(set(seen)) == len(seen)  # nothing is compiled twice


@pytest.mark.parametrize(("fsdp", "tensor"), [(16, 1), (64, 2), (8, 8), (1, 4)])
def test_sweep_climbs_to_the_fastest_mesh(fsdp, tensor):
    """From copies of the model, where times only fall towards one mesh."""
    run = imagenet_llamagen("3B")
    run = dataclasses.replace(run, mesh=MeshConfig(-1, 1, 1))
    tried = []

    def compile_one(config, name, topology, batch_size):
        mesh = config.mesh
        tried.append(mesh)
        if mesh == MeshConfig(-1, 4, 2):
            raise child.RefusedError("no routes")
        away = abs(math.log2(mesh.fsdp / fsdp)) + abs(math.log2(mesh.tensor / tensor))
        return Compiled({}, {"total": GIB}, 1e12, flops=1e12, busy_seconds=1 + away)

    found = sweep(run, parse_topology("v5e:16x16"), max_compiles=60, compile_one=compile_one)
    assert found["mesh"] == {"fsdp": fsdp, "tensor": tensor}
    refused = [one for one in found["tried"] if (one["fsdp"], one["tensor"]) == (4, 2)]
    assert all(one["refused"] and not one["fits"] for one in refused)


def test_sweep_starts_elsewhere_where_the_mesh_of_the_run_does_not_divide():
    """64 x 2 of a pod, over 32 chips."""
    seen: list = []
    found = sweep(
        imagenet_llamagen("3B"), parse_topology("v5p:2x4x4"), max_compiles=2,
        compile_one=room_for(100, seen),
    )  # fmt: skip
    assert seen[0] == (2, 1, 512)  # as a run without a mesh would have it
    assert found["fits"]
    with pytest.raises(UserError, match="divides over 32 chips"):
        sweep(tiny_config(), parse_topology("v5p:2x4x4"), compile_one=room_for(100, seen))


def test_sweep_needs_less_where_nothing_fits():
    def compile_one(config, name, topology, batch_size):
        return Compiled({}, {"total": 200 * GIB // config.mesh.fsdp}, 1e12, fits=False)

    found = sweep(tiny_config(), parse_topology("v5e:2x2"), compile_one=compile_one)
    assert found["mesh"] == {"fsdp": 4, "tensor": 1}
    assert not found["fits"]


def test_sweep_ends():
    seen: list = []
    found = sweep(
        tiny_config(), parse_topology("v5e:2x2"), max_compiles=5, compile_one=room_for(1e9, seen)
    )
    assert len(seen) == len(found["tried"]) == 5


def test_a_program_that_does_not_fit_is_a_result():
    def compile_one(config, name, topology, batch_size):
        return Compiled({}, {"total": 20 * GIB}, 1e12, fits=False, capacity=15 * GIB)

    found = plan(tiny_config(), parse_topology("v5e:2x2"), compile_one=compile_one)
    assert not found["fits"]
    assert found["train"]["gib_needed"] == 20
    assert "estimate" not in found["train"]
    json.dumps(found)


TOO_LARGE = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
)


NO_ROOM = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(28.52G) exceeds available HBM (15.75G)."
)


class Refused:
    """A program that a compiler refuses."""

    def __init__(self, message):
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_what_a_refusing_compiler_says_is_read():
    mesh, topology = make_mesh(MeshConfig(), jax.devices()[:1]), parse_topology("v5e:2x2")
    found = compile_program(Program(Refused(TOO_LARGE), {}, 1e12, mesh), topology)
    assert not found.fits
    assert found.memory == {"total": 20.5 * GIB}
    assert found.capacity == 15.75 * GIB
    whole = {"parameters": jax.ShapeDtypeStruct((2**28,), "float32", sharding=replicated(mesh))}
    found = compile_program(Program(Refused(NO_ROOM), whole, 1e12, mesh), topology)
    assert found.memory["temporaries"] == int(28.52 * GIB)
    assert found.memory["total"] == int(28.52 * GIB) + GIB
    assert found.capacity == 15.75 * GIB
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        compile_program(Program(Refused("INTERNAL: broken"), {}, 1e12, mesh), topology)


def test_people_read_a_line_for_each_collective(monkeypatch, capsys):
    one = Collective("all-gather", 4, 1, 200e9, 200e9)
    compiled = Compiled(
        {"parameters": GIB}, {"total": GIB}, 1e12, flops=1e12, busy_seconds=1.0,
        collectives=(one, dataclasses.replace(one, kind="all-reduce")),
    )  # fmt: skip
    answer = f"noise\nigpt-plan: {json.dumps(dataclasses.asdict(compiled))}\n"
    done = subprocess.CompletedProcess([], 0, answer, "")
    monkeypatch.setattr(child.subprocess, "run", lambda *_, **__: done)
    assert cli.main(["plan", DEBUG, "--topology", "v5e:2x2", "--sampler-batch", "0"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "gib_by_kind parameters 1.0000" in lines
    assert [line.split(",")[0] for line in lines if line.startswith("kind ")] == [
        "kind all-gather",
        "kind all-reduce",
    ]


def test_a_compiler_that_breaks_is_one_line(monkeypatch):
    done = subprocess.CompletedProcess([], -11, "", "long\nlast words")
    monkeypatch.setattr(child.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UserError, match="ended with -11: last words"):
        plan(tiny_config(), parse_topology("v5e:2x2"))


def test_a_compiler_that_refuses_a_mesh_says_why(monkeypatch):
    error = "jax.errors.JaxRuntimeError: INTERNAL: no routes\n  at frame 1"
    done = subprocess.CompletedProcess([], 1, "", f"Traceback\n{error}")
    monkeypatch.setattr(child.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(child.RefusedError, match=r"ended with 1: .*no routes; try another mesh"):
        plan(tiny_config(), parse_topology("v5e:2x2"))


def test_bad_input_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'igpt_jax\[tpu\]'"):
        child.find_devices(parse_topology("v5e:2x2"))
    for arguments in (
        ["--topology", "v9:4"],
        ["--topology", "gpu:4", "--mesh.fsdp", "3"],
        ["--topology", "gpu:4", "--no.such", "1"],
        ["--max-compiles", "0"],
    ):
        assert cli.main(["plan", DEBUG, *arguments]) == 2
        (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
        assert "expected" in line or "no.such" in line
    assert cli.main(["plan", "configs/cards_vae.py"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "tokenizer", "sampler"])
def test_programs_compile_and_their_bytes_are_those_of_their_arrays(name):
    config = child.for_accelerators(tiny_config().resolved())
    program = lower(config, name, jax.devices()[:1], 8)
    compiled = compile_program(program, parse_topology("gpu:1"))
    assert compiled.fits
    assert compiled.collectives == ()
    params = program.arguments["parameters"]
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert compiled.kinds["parameters"] == 4 * count
    if name == "gpt":  # two moments, and a few counts
        assert 0 <= compiled.kinds["optimizer"] - 8 * count < 100
        assert compiled.kinds["averaged"] == 4 * count
        assert compiled.kinds["batch"] == 8 * 17 * 4
    assert compiled.memory["arguments"] >= compiled.kinds["parameters"]


@pytest.mark.slow
def test_plan_of_simulated_devices(capsys):
    """Four devices: parameters in four parts, gradients summed over those that share them."""
    command = ["plan", DEBUG, "--topology", "gpu:4", "--mesh.fsdp", "2", "--json"]
    assert cli.main([*command, "--sampler-batch", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert found["fits"]
    kinds = {one["kind"] for one in found["train"]["collectives"]}
    assert {"all-gather", "all-reduce"} <= kinds | {"reduce-scatter"}
    assert "simulated" in found["assumptions"][0]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler (libtpu)"
)
def test_slices_of_tpus_have_a_device_a_chip_and_every_mesh():
    environment = {**os.environ, **child.environment_for(parse_topology("v5e:2x2"))}
    script = str(Path(__file__).parent / "slices.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler (libtpu)"
)
def test_plan_of_a_tpu_without_one():
    """Two layers of LlamaGen-B: every product of the compiled program is one that is known of."""
    run, topology = imagenet_llamagen("B").resolved(), parse_topology("v5e:2x2")
    gpt = dataclasses.replace(run.gpt, num_layers=2)
    batch, layer = 32, 4 * gpt.embed_dim**2 + 2 * gpt.embed_dim * gpt.hidden_dim  # but the last
    attention = 2 * batch * gpt.seq_len**2 * gpt.embed_dim  # one product of a layer

    def compiled(fsdp, tensor, remat):
        changed = dataclasses.replace(gpt, remat=remat)
        config = dataclasses.replace(run, gpt=changed, mesh=MeshConfig(-1, fsdp, tensor))
        return child.compile_apart(config, "gpt", topology, batch)

    one, two, three = compiled(1, 1, "none"), compiled(4, 1, "full"), compiled(2, 2, "none")
    assert all(found.fits for found in (one, two, three))
    assert two.kinds["parameters"] < one.kinds["parameters"] / 3.9
    assert {found.kind for found in one.collectives} == {"all-reduce"}
    assert "all-gather" in {found.kind for found in two.collectives}
    # No more is gathered at once than the largest parameter, never the logits.
    largest = 2 * gpt.embed_dim * gpt.vocab_size
    for found in (two, three):
        gathered = [one.largest for one in found.collectives if one.kind == "all-gather"]
        assert max(gathered) <= largest
    assert one.model_flops == two.model_flops == three.model_flops
    # Backward, the attention kernel makes its scores again, and their gradient, twice: 9 products
    # where 6 are written.
    known = one.model_flops + 2 * 3 * attention
    # The forward pass of the blocks, but their last products, which nothing asks for.
    again = 2 * (2 * batch * gpt.seq_len * layer + 2 * attention)
    assert 4 * one.flops == pytest.approx(known, rel=0.01)
    assert 4 * three.flops == pytest.approx(known, rel=0.01)
    assert 4 * two.flops == pytest.approx(known + again, rel=0.01)
