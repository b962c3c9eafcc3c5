"""What deploys a server: linted, and checked against what the server itself takes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from serving_help import database_url, drop_database, live, make_service

pytest.importorskip("sqlalchemy")

from igpt_jax import cli
from igpt_jax.serving.client import Client
from igpt_jax.serving.settings import ServeSettings
from igpt_jax.serving.views import MAX_TEXT

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


OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()


def blocks(kind, word):
    found = re.findall(rf"^```{kind}\n(.*?)^```", OPERATIONS, re.DOTALL | re.MULTILINE)
    return [text for text in found if word in text]


def run_block(text, folder, **values):
    """Runs a block of the documentation with other values of its first line."""
    first, rest = text.split("\n", 1)
    assert {pair.split("=")[0] for pair in first.split()} == values.keys()
    script = "\n".join(["set -e", *(f"{name}='{value}'" for name, value in values.items()), rest])
    ran = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_back_up_and_restore(kind, tmp_path):
    """Made while a server runs; what is made afterwards is gone, all else is there and opens."""
    home = tmp_path / "home"
    home.mkdir()
    url = database_url(kind, home)
    if kind == "postgresql":
        program("pg_dump")
        back_up, restore = blocks("bash", "DATABASE=")
        values = {"DATABASE": url, "FILES": home, "BACKUP": tmp_path / "backup"}
    else:
        back_up, restore = blocks("bash", "HOME_OF=")
        values = {"HOME_OF": home, "BACKUP": tmp_path / "backup"}
    service = make_service(home, hosts=(), database=url)
    with live(service) as address, Client(address) as client:
        made = client.wait(client.generate(n=3, prompt="fox", seed=1)["id"])["pictures"]
        before = [client.file(picture["id"]) for picture in made]
        run_block(back_up, tmp_path, **values)
        client.wait(client.generate(n=2, prompt="fox", seed=2)["id"])
        client.delete(made[0]["id"])
    if kind == "postgresql":
        drop_database(url)
        values["DATABASE"] = url = database_url(kind, home)
    run_block(restore, tmp_path, **values)
    try:
        service = make_service(home, hosts=(), database=url)
        with live(service) as address, Client(address) as client:
            found = list(client.search(q="fox"))
            assert {picture["id"] for picture in found} == {picture["id"] for picture in made}
            assert [client.file(picture["id"]) for picture in made] == before
            client.wait(client.generate(prompt="fox")["id"])
    finally:
        drop_database(url)


def test_alerts_and_numbers_exist(tmp_path):
    service = make_service(tmp_path)
    for state in ("done", "late"):
        service.metrics.jobs.labels(state)
    service.metrics.requests.labels("GET", "/", "429")
    service.metrics.seconds.labels("/")
    told = set(re.findall(r"^(igpt_\w+)", service.metrics.text().decode(), re.MULTILINE))
    told |= set(re.findall(r"^# HELP (\w+)", service.metrics.text().decode(), re.MULTILINE))
    rules = yaml.safe_load(blocks("yaml", "alert:")[0])["groups"][0]["rules"]
    named = set(re.findall(r"\bigpt_\w+", " ".join(rule["expr"] for rule in rules)))
    named |= set(re.findall(r"\bigpt_\w+", OPERATIONS[OPERATIONS.index("## What to watch") :]))
    assert len(rules) >= 5
    assert named - told == set()
    service.database.close()


def test_limits_are_told():
    settings = ServeSettings()
    mega = settings.max_upload // 2**20
    for text in (
        f"{2 * mega}.25 MiB", f"{mega} MiB, {settings.max_pixels // 10**6} million pixels",
        f"{settings.max_images}; {settings.max_waiting}",
        f"{settings.deadline:.0f} s, at most {settings.max_deadline:.0f} s",
        f"1,024; {settings.max_events}", f"{MAX_TEXT:,} characters",
    ):  # fmt: skip
        assert text in OPERATIONS
