"""What starts a run on TPU slices, Slurm and Kubernetes: linted, and run against stand-ins."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from igpt_jax.config import load_config_file
from igpt_jax.errors import TRY_AGAIN

REPOSITORY = Path(__file__).parent.parent
DEPLOY = REPOSITORY / "deploy"

SCRIPTS = sorted(DEPLOY.glob("*.sh"))
MANIFESTS = sorted(DEPLOY.glob("kubernetes*.yaml"))


def lint(name, *arguments):
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        pytest.skip(f"needs {name}")
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts(path):
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(path)], check=True)
    lint("shellcheck", str(path))


def test_image_of_training():
    lint("hadolint", "--failure-threshold", "style", str(DEPLOY / "Dockerfile.train"))
    ignored = (DEPLOY / "Dockerfile.train.dockerignore").read_text()
    for source in ("pyproject.toml", "constraints.txt", "train.py", "igpt_jax", "configs"):
        assert (REPOSITORY / source).exists()
        assert f"!{source}\n" in ignored


def write_program(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder of programs that stand for a cluster's, and a train.py with a list of exit codes."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CODES", str(tmp_path / "codes"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("IGPT_DATA", raising=False)
    # Notes its arguments, and exits with the next of the codes.
    write_program(
        programs / "trained",
        'printf "%s|" "$@" >> "$CALLS"; echo "${IGPT_DATA:-}" >> "$CALLS"\n'
        'code=$(head -n 1 "$CODES"); sed -i 1d "$CODES"; exit "$code"',
    )
    return programs


def run(script, *arguments, codes, tmp_path):
    """Runs a script; returns its exit code and the lines that were noted."""
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    (tmp_path / "calls").write_text("")
    done = subprocess.run(
        [str(DEPLOY / script), *arguments], cwd=REPOSITORY, capture_output=True, timeout=60
    )
    return done.returncode, (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("codes", "last"), [((TRY_AGAIN, TRY_AGAIN, 0), 0), ((TRY_AGAIN, 2), 2), ((0,), 0)]
)
def test_tpu_hosts_go_on_until_done_or_wrong(machine, tmp_path, monkeypatch, codes, last):
    monkeypatch.setenv("IGPT_DATA", "/my data")
    monkeypatch.setenv("IGPT_PAUSE", "0")
    write_program(  # the command of `ssh` is its last argument; copies are noted
        machine / "gcloud",
        'if [ "$4" = ssh ]; then cd && exec bash -c "${!#}"; fi; echo "$4 ${!#}" >> "$CALLS"',
    )
    write_program(  # makes a .venv of which nothing is real
        machine / "python3",
        'mkdir -p .venv/bin; ln -sf "$(command -v trained)" .venv/bin/python\n'
        'ln -sf "$(type -P true)" .venv/bin/pip',
    )
    arguments = ("configs/debug.py", "--workdir", "gs://b/a run")
    code, calls = run("tpu_pod.sh", "pod", "zone", *arguments, codes=codes, tmp_path=tmp_path)
    assert code == last
    assert calls == ["scp pod:igpt", *[f"train.py|{'|'.join(arguments)}|/my data"] * len(codes)]


@pytest.mark.parametrize(("code", "again"), [(0, False), (TRY_AGAIN, True), (1, False)])
def test_slurm_queues_a_saved_run_again(machine, tmp_path, monkeypatch, code, again):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("IGPT_PYTHON", str(machine / "trained"))
    write_program(machine / "srun", 'shift; exec "$@"')
    write_program(machine / "scontrol", 'echo "scontrol $*" >> "$CALLS"')
    ended, calls = run("slurm.sh", "configs/debug.py", codes=[code], tmp_path=tmp_path)
    assert ended == code
    assert calls == ["train.py|configs/debug.py|", *["scontrol requeue 17"] * again]


def test_slurm_asks_for_a_notice_and_one_task_a_gpu():
    lines = (DEPLOY / "slurm.sh").read_text().splitlines()
    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH")
    )
    assert asked["signal"].startswith("TERM@")  # to the tasks, not to the script
    assert "requeue" in asked
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS])
def test_scripts_tell_how_they_are_used(script, tmp_path):
    code, _ = run(script, codes=[], tmp_path=tmp_path)
    assert code == 2


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes(path):
    validate = pytest.importorskip("kubernetes_validate")
    service, job = yaml.safe_load_all(path.read_text())
    for resource in (service, job):
        validate.validate(resource, "1.37", strict=True)
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert str(spec["completions"]) == environment["JAX_NUM_PROCESSES"]
    assert spec["completions"] == spec["parallelism"]
    # Pod 0 of the job, by the headless service.
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    host, _, port = environment["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{name}-0.{pod['subdomain']}"
    assert int(port) in [entry["containerPort"] for entry in container["ports"]]
    actions = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert actions == {TRY_AGAIN: "Ignore", 2: "FailJob"}
    assert pod["restartPolicy"] == "Never"  # or Kubernetes takes no podFailurePolicy
    load_config_file(REPOSITORY / container["args"][0])


def test_hosts_of_the_tpu_slice():
    _, job = yaml.safe_load_all((DEPLOY / "kubernetes_tpu.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert job["spec"]["completions"] * chips == int(rows) * int(columns)
