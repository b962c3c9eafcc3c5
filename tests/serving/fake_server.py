"""`igpt serve` with the fake painter instead of a trained model: starts fast, draws at once.

    python tests/serving/fake_server.py FOLDER --port 0 ...

`IGPT_FAKE_SECONDS` is how long a segment of four tokens takes, and `IGPT_FAKE_LOG` a file to which
every picture that is drawn is written, a line each.
"""

import os
import sys
import time

from fake_painter import FakePainter, fake_model

from igpt_jax import cli
from igpt_jax.serving import commands


class TimedPainter(FakePainter):
    """Takes time, and tells what it drew."""

    seconds = float(os.environ.get("IGPT_FAKE_SECONDS", "0"))
    log = os.environ.get("IGPT_FAKE_LOG")

    def advance(self, hand):
        time.sleep(self.seconds)
        return super().advance(hand)

    def finish(self, hand, places):
        if self.log is not None:
            drawn = [hand.rows[place] for place in places]
            lines = "".join(f"{os.getpid()} {ask.seed} {index}\n" for ask, index in drawn)
            with open(self.log, "a") as file:  # appending lines at once is atomic
                file.write(lines)
        return super().finish(hand, places)


def main():
    commands.load = lambda directory: None
    commands.served_model = lambda name, model, sizes: fake_model("cards", TimedPainter())
    sys.exit(cli.main(["serve", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
