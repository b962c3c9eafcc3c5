"""Features do not depend on how many devices make them."""

import os
import subprocess
import sys

import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import InceptionExtractor
from igpt_jax.evaluation.inception import InceptionWeights

PROGRAM = """
import sys
import jax
import numpy as np
from igpt_jax.evaluation.run_extractors import TokenizerExtractor
from igpt_jax.model_config import build_tokenizer
from igpt_jax.testing import tiny_config

tokenizer = build_tokenizer(tiny_config().tokenizer)
images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
params = tokenizer.init(jax.random.key(0), images[:1] / 255)["params"]
params = jax.device_put(params, jax.devices()[0])
extractor = TokenizerExtractor(tokenizer, params, "here", batch_size=3)
assert len(jax.devices()) == int(sys.argv[1])
np.save(sys.argv[2], extractor(images).pooled)
"""


def features(num_devices, path):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(num_devices), str(path)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        check=True,
        timeout=600,
    )
    return np.load(path)


@pytest.mark.slow
def test_four_devices_give_the_features_of_one(tmp_path):
    one, four = (features(n, tmp_path / f"{n}.npy") for n in (1, 4))
    assert one.shape[0] == 7
    np.testing.assert_allclose(four, one, atol=1e-5)


def test_inception_takes_no_videos():
    extractor = InceptionExtractor(InceptionWeights({}, None))
    with pytest.raises(UserError, match="expected pictures, got videos"):
        extractor(np.zeros((1, 2, 8, 8, 3), np.uint8))
