import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.models.rotary import raster_coordinates, rotate, rotation

BASE = 10_000.0


def expected_angles(coordinates, head_dim, in_time):
    """One angle a channel pair, in float64, by plain loops."""
    pairs = head_dim // 2
    time = pairs // 4 if in_time else 0
    rows = (pairs - time) // 2
    angles = np.zeros((len(coordinates), pairs))
    for i, (t, row, column) in enumerate(np.asarray(coordinates).tolist()):
        values = [t * BASE ** (-j / time) for j in range(time)]
        values += [row * BASE ** (-j / rows) for j in range(rows)]
        columns = pairs - time - rows
        values += [column * BASE ** (-j / columns) for j in range(columns)]
        angles[i] = values
    return angles


def random_coordinates(count=40):
    return jnp.asarray(np.random.default_rng(0).integers(0, 30, (count, 3)), jnp.int32)


def test_raster_coordinates_go_frame_by_frame():
    expected = [(t, r, c) for t in range(3) for r in range(2) for c in range(4)]
    assert [tuple(place) for place in raster_coordinates((2, 4), 3).tolist()] == expected
    np.testing.assert_array_equal(raster_coordinates((2, 4)), raster_coordinates((2, 4), 1))


@pytest.mark.parametrize("head_dim", [8, 12, 32, 64])
@pytest.mark.parametrize("in_time", [False, True])
def test_rotation_equals_float64(head_dim, in_time):
    coordinates = random_coordinates()
    cos, sin = rotation(coordinates, head_dim, BASE, in_time=in_time)
    angles = expected_angles(coordinates, head_dim, in_time)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-5)


@pytest.mark.parametrize("head_dim", [4, 16, 64])
def test_two_dimensions_are_llamagens(head_dim):
    """A quarter of the channels is the number of frequencies of an axis, and time is not read."""
    coordinates = random_coordinates()
    quarter = head_dim // 4
    frequencies = BASE ** (-np.arange(quarter) / quarter)
    grid = np.asarray(coordinates, np.float64)[:, 1:]
    angles = (grid[..., None] * frequencies).reshape(len(grid), 2 * quarter)
    cos, sin = rotation(coordinates, head_dim, BASE)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-5)
    later = coordinates.at[:, 0].add(5)
    for found, moved in zip((cos, sin), rotation(later, head_dim, BASE), strict=True):
        np.testing.assert_array_equal(found, moved)


@pytest.mark.parametrize("in_time", [False, True])
def test_scores_depend_on_differences_of_places_alone(in_time):
    rng = np.random.default_rng(1)
    query, key = (jnp.asarray(rng.standard_normal((1, 40, 2, 16)), jnp.float32) for _ in range(2))

    def scores(coordinates):
        angles = rotation(coordinates[None], 16, BASE, in_time=in_time)
        return jnp.einsum("bqnk,bsnk->bnqs", rotate(query, *angles), rotate(key, *angles))

    here = random_coordinates()
    away = scores(here + jnp.asarray([7, 2, 11]))
    np.testing.assert_allclose(scores(here), away, atol=1e-4)  # angles of up to 41 in float32
    later = np.abs(scores(here) - scores(here.at[:20, 0].add(3))).max()
    assert later > 0.1 if in_time else later == 0
