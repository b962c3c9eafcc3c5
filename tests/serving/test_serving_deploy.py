"""What deploys a server: linted, and checked against what the server itself takes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("sqlalchemy")

from igpt_jax import cli
from igpt_jax.serving.settings import ServeSettings

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
BESIDE_PYTHON = Path(sys.executable).parent


def program(name):
    found = shutil.which(name, path=str(BESIDE_PYTHON)) or shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def lint(*command):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture
def read(monkeypatch):
    """Reads a command of `igpt` and tells what it would serve."""
    found = {}
    monkeypatch.setattr(
        "igpt_jax.serving.commands.serve", lambda directories, **asked: found.update(asked) or {}
    )

    def read(argv):
        assert cli.main(list(argv)) == 0
        assert ServeSettings(host=found["host"], requires_keys=found["keys"])
        return found

    return read


def dockerfile(instruction):
    """The last instruction of a kind, joined to one line."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)[-1]


def test_dockerfile(read):
    lint(program("hadolint"), "--failure-threshold", "style", str(DEPLOY / "Dockerfile"))
    assert int(dockerfile("USER").partition(":")[0]) > 0
    command = yaml.safe_load(dockerfile("CMD"))
    asked = read(command)
    assert asked["keys"]
    for source in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "igpt_jax"):
        assert (REPOSITORY / source).exists()
        assert f"!{source}\n" in (DEPLOY / "Dockerfile.dockerignore").read_text()


def test_compose(compose, read):
    path = str(DEPLOY / "compose.yaml")
    lint(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path)
    server, database = compose["services"]["server"], compose["services"]["database"]
    asked = read(server["command"])
    assert asked["keys"]
    assert asked["database"] == "postgresql://igpt@database/igpt"
    assert server["user"] == dockerfile("USER")
    assert server["read_only"] is True
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert "ports" not in database
    named = [volume.partition(":")[0] for volume in (*server["volumes"], *database["volumes"])]
    assert set(compose["volumes"]) == {name for name in named if not name.startswith("$")}
    for service in (server, database):
        assert service["healthcheck"]["test"][0] == "CMD"
    assert server["depends_on"]["database"]["condition"] == "service_healthy"
    assert seconds(server["stop_grace_period"]) > ServeSettings().grace


def seconds(text):
    assert text.endswith("s")
    return int(text[:-1])


def test_health_check_is_python_that_runs(compose):
    check = compose["services"]["server"]["healthcheck"]["test"]
    assert yaml.safe_load(dockerfile("HEALTHCHECK").partition("CMD ")[2]) == check[1:]
    ran = subprocess.run([sys.executable, *check[2:]], capture_output=True, text=True, timeout=30)
    assert "URLError" in ran.stderr or ran.returncode == 0  # nothing listens here, or something


def unit_lines(name):
    lines = (DEPLOY / "igpt.service").read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_unit(read):
    [command] = unit_lines("ExecStart")
    values = dict(line.split("=", 1) for line in unit_lines("Environment"))
    for name, value in values.items():
        command = command.replace("${" + name + "}", value)
    asked = read(command.split()[1:])
    assert asked["keys"]
    assert asked["database"] == "sqlite:////var/lib/igpt/igpt.db"
    assert int(unit_lines("TimeoutStopSec")[0]) > ServeSettings().grace


def test_unit_verifies(tmp_path):
    analyze = program("systemd-analyze")
    unit = tmp_path / "igpt.service"
    text = (DEPLOY / "igpt.service").read_text()
    unit.write_text(text.replace("/opt/igpt/bin/igpt", "/bin/true"))  # which it looks for
    assert lint(analyze, "verify", "--man=no", str(unit)) == ""
    lint(analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit))
