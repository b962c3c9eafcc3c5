"""Which program computes causal attention: XLA's, cuDNN's or the Pallas one of TPUs."""

import math
from functools import partial
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from igpt_jax.partitioning import BATCH_AXES
from igpt_jax.platform import platform
from igpt_jax.typing import Array, Float

AttentionKernel = Literal["auto", "xla", "cudnn", "splash"]
LANES: Final = 128  # of a TPU's vector registers: blocks are multiples of it
MAX_BLOCK: Final = 512  # slots of a block of the Pallas kernel


def choose_kernel(
    wanted: AttentionKernel, query: Float[Array, "b q n k"], *, has_mask: bool
) -> Literal["xla", "cudnn", "splash"]:
    """The kernel that is wanted where platform, shape and mask allow it, else XLA's.

    So a model that was trained with one loads everywhere.

    Args:
        wanted: `auto` takes the platform's own: cuDNN's on GPUs, the Pallas kernel on TPUs.
        query: its shape and dtype decide.
        has_mask: whether some slots are hidden beside those that come later.
    """
    if has_mask:
        return "xla"
    if wanted in ("auto", "splash") and platform() == "tpu":
        return "splash"
    if wanted in ("auto", "cudnn") and platform() == "gpu" and _fits_cudnn(query):
        return "cudnn"
    return "xla"


def _fits_cudnn(query: Float[Array, "b q n k"]) -> bool:
    """What flash attention of cuDNN takes: half precision, small heads, Ampere and later."""
    _, slots, _, head_dim = query.shape
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    capability = float(getattr(jax.devices()[0], "compute_capability", 0))
    return half and head_dim % 8 == 0 and head_dim <= 128 and slots % 2 == 0 and capability >= 8


def splash_attention(
    query: Float[Array, "b q n k"],
    keys: Float[Array, "b q m k"],
    values: Float[Array, "b q m k"],
    *,
    interpret: bool = False,
) -> Float[Array, "b q n k"]:
    """Causal attention by the Pallas kernel of TPUs that comes with JAX.

    It skips blocks that the mask hides and never writes the scores to memory (Dao et al. 2022).
    Slots are padded to whole blocks: what is behind a slot, it does not see. Under a mesh each
    device runs it for its own pictures and heads.

    Args:
        query: of `n` heads.
        keys: of `m` heads, which divides `n`.
        values: as many.
        interpret: run it as JAX operations, for tests without a TPU.
    """
    b, slots, _, head_dim = query.shape
    padding = -slots % LANES
    scaled = query * jnp.asarray(head_dim**-0.5, query.dtype)
    padded = (
        jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, padding), (0, 0)))
        for x in (scaled, keys, values)
    )
    run, mesh = partial(_splash, interpret=interpret), jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        rows = BATCH_AXES if b % math.prod(mesh.shape[a] for a in BATCH_AXES) == 0 else None
        split = "tensor" if keys.shape[2] % mesh.shape["tensor"] == 0 else None
        spec = PartitionSpec(rows, split)
        run = jax.shard_map(run, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
    return run(*padded)[:, :, :slots].swapaxes(1, 2)


def _splash(
    query: Float[Array, "b n s k"],
    keys: Float[Array, "b m s k"],
    values: Float[Array, "b m s k"],
    *,
    interpret: bool,
) -> Float[Array, "b n s k"]:
    """The kernel on one device."""
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    heads, slots = query.shape[1:3]
    block = next(size for size in range(min(MAX_BLOCK, slots), 0, -LANES) if slots % size == 0)
    sizes = pallas.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    mask = pallas.MultiHeadMask([pallas.CausalMask((slots, slots))] * heads)
    kernel: Any = pallas.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    return jax.vmap(kernel)(query, keys, values)
