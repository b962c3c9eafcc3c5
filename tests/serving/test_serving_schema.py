"""Requests that the OpenAPI document allows and forbids, made up by Schemathesis: never a 5xx."""

import hypothesis
import pytest

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

from fake_painter import fake_model
from schemathesis.checks import not_a_server_error
from serving_help import live, make_service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("schema"),
    # Bodies that no client would send are what it is for.
    pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning"),
]


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    with live(make_service(folder, fake_model(), max_waiting=64, hosts=())) as url:
        yield schemathesis.openapi.from_url(f"{url}/v1/openapi.json")


schema = schemathesis.pytest.from_fixture("documented")


@schema.parametrize()
@hypothesis.settings(
    max_examples=15, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
def test_no_answer_is_a_server_error(case):
    case.call_and_validate(checks=[not_a_server_error])
