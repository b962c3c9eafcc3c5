"""A run that prepares each picture to encode so slowly that a test can end it meanwhile.

python tests/training/slowly.py configs/debug.py --workdir DIR [...]
"""

import sys
import time

from igpt_jax import run

SECONDS = 0.3  # a picture

if __name__ == "__main__":
    from igpt_jax.cli import run_command, train

    to_views = run.to_views

    def slow_views(*given):
        prepare = to_views(*given)

        def wait_and_prepare(item, rng):
            time.sleep(SECONDS)
            return prepare(item, rng)

        return wait_and_prepare

    run.to_views = slow_views
    sys.exit(run_command(train))
