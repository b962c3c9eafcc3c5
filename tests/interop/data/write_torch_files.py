"""Writes the files of PyTorch that test_torch_file.py reads; needs PyTorch, which the tests do not.

python tests/interop/data/write_torch_files.py
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent


class Callback:
    """Stands for what a reader does not have."""

    def __init__(self) -> None:
        self.best = torch.zeros(2)
        self.__dict__["name"] = ("callback", {1, 2})


def ramp(*shape: int, dtype: torch.dtype = torch.float32, start: int = 0) -> torch.Tensor:
    """Counts upwards from `start`."""
    size = torch.Size(shape).numel()
    return torch.arange(start, start + size).reshape(shape).to(dtype)


def every_dtype() -> dict[str, torch.Tensor]:
    """One small array of each dtype."""
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 complex64"
    tensors = {name: ramp(2, 3, dtype=getattr(torch, name), start=-2) for name in names.split()}
    tensors["uint8"] = ramp(2, 3, dtype=torch.uint8)
    tensors["uint16"] = torch.tensor([1, 65535], dtype=torch.uint16)
    tensors["float8_e4m3fn"] = torch.tensor([1.0, -2.5]).to(torch.float8_e4m3fn)
    tensors["bool"] = torch.tensor([True, False, True])
    return tensors


def views() -> "OrderedDict[str, torch.Tensor]":
    """Several views of one storage, and shapes that are rare."""
    base = ramp(4, 6)
    attributed = torch.nn.Parameter(ramp(2, start=7))
    attributed.is_bias = True
    return OrderedDict(
        base=base,
        transposed=base.T,
        inner=base[1:3, 2:5],
        every_second=base[::2, 1::3],
        shared_row=base[2],
        expanded=ramp(1, 3).expand(4, 3),
        channels_last=ramp(2, 3, 2, 2).to(memory_format=torch.channels_last),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(ramp(3)),
        frozen=torch.nn.Parameter(ramp(3), requires_grad=False),
        attributed=attributed,
    )


def main() -> None:
    """Writes them all."""
    module = torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        module.weight.copy_(ramp(3, start=1))
        module.bias.copy_(ramp(3, start=5))
    optimizer = torch.optim.SGD([module.bias], lr=1.0, momentum=0.9)
    optimizer.state[module.bias]["momentum_buffer"] = ramp(3)
    lightning = {
        "epoch": 3,
        "global_step": 70,
        "pytorch-lightning_version": "1.0.8",
        "state_dict": module.state_dict(),
        "callbacks": {Callback: Callback()},
        "hyper_parameters": argparse.Namespace(lr=1e-4, path=HERE.relative_to(HERE)),
        "optimizer_states": [optimizer.state_dict()],
    }
    llamagen = {
        "model": {"w": ramp(2, 2)},
        "ema": {"w": ramp(2, 2, start=10)},
        "optimizer": optimizer.state_dict(),
        "discriminator": {"d": ramp(3)},
        "steps": 10,
        "args": argparse.Namespace(ema=True),
    }
    torch.save(every_dtype(), HERE / "dtypes.pt")
    torch.save(views(), HERE / "views.pth")
    torch.save(lightning, HERE / "lightning.ckpt")
    torch.save(llamagen, HERE / "llamagen.pt")
    old = views()
    del old["attributed"]
    torch.save(old, HERE / "views_before_1_6.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
