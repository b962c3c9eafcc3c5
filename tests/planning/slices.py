"""Lays meshes over slices of TPUs that are not here; needs their compiler (libtpu)."""

import pytest
from jax.experimental.topologies import get_topology_desc

from igpt_jax.errors import UserError
from igpt_jax.planning.child import find_devices
from igpt_jax.planning.topology import parse_topology
from igpt_jax.training.sharding import MeshConfig, make_mesh, num_slices


def check_every_mesh() -> None:
    """Also those that take half of an axis of a torus."""
    for name in ("v4:2x2x4", "v5p:2x2x4", "v5e:4x4", "v6e:4x4"):
        devices = find_devices(parse_topology(name))
        assert len(devices) == 16
        assert num_slices(devices) == 1
        for fsdp in (1, 2, 4, 8, 16):
            for tensor in (1, 2, 4, 8):
                if fsdp * tensor <= 16:
                    mesh = make_mesh(MeshConfig(-1, fsdp, tensor), devices)
                    assert set(mesh.devices.flat) == set(devices)


def check_two_slices() -> None:
    """Each has whole copies."""
    devices = get_topology_desc(platform="tpu", topology_name="v5e:4x4", num_slices=2).devices
    assert num_slices(devices) == 2
    copies = make_mesh(MeshConfig(-1, 8, 1), devices).devices
    assert [{one.slice_index for one in copy.flat} for copy in copies] == [{0}, {0}, {1}, {1}]
    with pytest.raises(UserError, match="a multiple of 2 for data"):
        make_mesh(MeshConfig(-1, 32, 1), devices)


if __name__ == "__main__":
    check_every_mesh()
    check_two_slices()
