import jax
import jax.numpy as jnp
import pytest

from igpt_jax.errors import UserError
from igpt_jax.training import speed
from igpt_jax.training.loop import Task, TrainConfig, _Log
from igpt_jax.training.metrics import MetricWriter, read_metrics
from igpt_jax.training.speed import peak_flops, work_done


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v6 lite", 918), ("TPU v4", 275),
     ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756),
     ("NVIDIA H200", 989)],
)  # fmt: skip
def test_peaks_by_the_names_that_jax_gives(kind, teraflops):
    assert peak_flops(kind) == teraflops * 1e12
    assert peak_flops("cpu") is None


def test_share_of_the_peak(monkeypatch):
    class Device:
        device_kind = "TPU v4"

    monkeypatch.setattr(jax, "devices", lambda: [Device()] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    done = work_done(10.0, tokens=256, flops=55e12)
    assert done == {"tokens_per_second": 2560.0, "mfu": pytest.approx(0.5)}
    assert work_done(10.0, tokens=0, flops=0.0) == {}


def test_a_device_without_a_known_peak_has_no_mfu():
    assert work_done(10.0, tokens=256, flops=1e12) == {"tokens_per_second": 2560.0}


def logged(tmp_path, config, num_steps):
    task = Task("gpt", lambda key: {}, lambda params, batch, key: (0, {}), tokens=16)
    with MetricWriter(tmp_path) as writer:
        log = _Log(writer, config, lambda step: 1e-3, 0, task)
        for step in range(1, num_steps + 1):
            row = {"loss": 1.0, "grad_norm": 1.0, "skipped": 0.0}
            log.add(step, {name: jnp.float32(value) for name, value in row.items()})
        log.close()
    (row,) = read_metrics(tmp_path, "train")
    return row


@pytest.mark.parametrize("num_steps", [10, speed.WARM_UP_STEPS + 1])
def test_rows_have_tokens_a_second_and_a_trace_is_written(tmp_path, num_steps):
    """Of two steps after the first ones, or of those that there are."""
    row = logged(tmp_path, TrainConfig(global_batch_size=4, profile=2), num_steps)
    assert row["tokens_per_second"] == pytest.approx(16 * row["images_per_second"])
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_no_trace_unless_asked(tmp_path):
    logged(tmp_path, TrainConfig(global_batch_size=4), 10)
    assert not (tmp_path / "profile").exists()
    with pytest.raises(UserError, match="profile"):
        TrainConfig(profile=-1)
