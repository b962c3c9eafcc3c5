"""Peak host memory of importing a checkpoint of LlamaGen-3B's shapes; its sampler compiles.

    python benchmarks/import_memory.py [--format pt] [--directory DIR]

Writes random bfloat16 arrays of 6 GB, imports them in a process of its own, loads the result in
another and compiles the sampler there; prints peaks as multiples of the file.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.interop.conversion import LAYOUTS
from igpt_jax.interop.safetensors_file import write_safetensors

GPT = {
    "tok_embeddings.weight": (16_384, 3_200),
    "layers.0.feed_forward.w1.weight": (8_704, 3_200),
    "layers.23.ffn_norm.weight": (3_200,),
    "cls_embedding.embedding_table.weight": (1_001, 3_200),
}
VQ = {
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "quantize.embedding.weight": (16_384, 8),
    "encoder.conv_out.weight": (256, 512, 3, 3),
    "encoder.conv_blocks.4.attn.0.norm.weight": (512,),
    **{
        f"encoder.conv_blocks.{level}.res.{block}.conv1.weight": (128 * factor, 128, 3, 3)
        for level, factor in enumerate((1, 1, 2, 2, 4))
        for block in range(2)
    },
}
GIGABYTE = 1e9


def specs_of(kind: str, sizes: dict[str, tuple[int, ...]], dtype: type) -> dict:
    """All arrays of a checkpoint, whose layout needs no more than some shapes."""
    # The layout takes an index for a layer only where there are as many names.
    known = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in sizes.items()}
    known |= {f"padding.{i}": jax.ShapeDtypeStruct((1,), dtype) for i in range(64)}
    layout = LAYOUTS[kind](known)
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in layout.shapes.items()}


def random_arrays(specs: dict) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for name, spec in specs.items():
        values = rng.standard_normal(spec.shape, np.float32) * 0.02
        yield name, values.astype(spec.dtype)


def write(path: Path, specs: dict) -> None:
    """A checkpoint as safetensors, or as torch.save writes it where PyTorch is installed."""
    if path.suffix == ".safetensors":
        write_safetensors(path, specs, random_arrays(specs), {"format": "pt"})
        return
    import torch

    arrays = {
        name: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        for name, array in random_arrays(specs)
    }
    torch.save({"model": arrays, "steps": 1}, path)
    assert zipfile.is_zipfile(path)


def peak(*command: str) -> tuple[float, float, dict]:
    """Seconds, peak resident bytes and the last line's JSON of a process."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_maxrss * 1024.0, json.loads(output.splitlines()[-1])


def load_and_compile(directory: str) -> None:
    """In a process of its own: loads the model and compiles 256 tokens with guidance."""
    import igpt_jax
    from igpt_jax.sampling.sampler import generate, image_keys

    start = time.perf_counter()
    model = igpt_jax.load(directory)
    jax.block_until_ready(model.params)
    loaded, bytes_loaded = time.perf_counter() - start, _peak_here()
    start = time.perf_counter()
    labels, rows = jnp.zeros(1, jnp.int32), model.config.sampling.rows(1)
    keys = image_keys(0, np.arange(1))
    lowered = generate.lower(model.gpt, model.params, keys, labels, rows)
    lowered.compile()
    compiled = time.perf_counter() - start
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    result = {"load_s": loaded, "load_bytes": bytes_loaded, "compile_s": compiled}
    print(json.dumps({**result, "parameters": count}))


def _peak_here() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=("safetensors", "pt"), default="safetensors")
    parser.add_argument("--directory", type=Path, help="for 13 GB of files; default: temporary")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load_and_compile(args.load)
        return
    if args.write:
        write(args.write, specs_of("llamagen-gpt", GPT, jnp.bfloat16))
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as temporary:
        folder = Path(temporary)
        source, tokenizer = folder / f"gpt.{args.format}", folder / "vq.safetensors"
        # Elsewhere: the peak of a child is counted from that of its parent.
        subprocess.run((sys.executable, __file__, "--write", str(source)), check=True)
        write(tokenizer, specs_of("llamagen-vq", VQ, np.float32))
        size = source.stat().st_size
        print(f"checkpoint: {size / GIGABYTE:.2f} GB, {args.format}")
        igpt = (
            sys.executable,
            "-c",
            "import sys; from igpt_jax.cli import main; sys.exit(main())",
            "import",
        )
        for path, kind in ((tokenizer, "llamagen-vq"), (source, "llamagen-gpt")):
            to = ("--kind", kind, "--to", str(folder / "model"), "--json")
            seconds, resident, _ = peak(*igpt, str(path), *to)
        print(f"import: {seconds:.0f} s, peak {resident / size:.2f} x the file")
        command = (sys.executable, __file__, "--load", str(folder / "model"))
        _, resident, result = peak(*command)
        print(f"load: {result['load_s']:.0f} s, peak {result['load_bytes'] / size:.2f} x the file")
        print(f"parameters: {result['parameters']:,}")
        print(f"sampler of 256 tokens with guidance: compiled in {result['compile_s']:.1f} s")
        print(f"load and compile: peak {resident / size:.2f} x the file")


if __name__ == "__main__":
    main()
