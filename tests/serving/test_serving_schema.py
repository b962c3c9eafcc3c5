"""Requests that the OpenAPI document allows and forbids, made up by Schemathesis: never a 5xx."""

import hypothesis
import pytest
import schemathesis
from fake_painter import fake_model
from schemathesis.checks import not_a_server_error
from serving_help import live, make_service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("schema"),
    # Schemathesis's own strategies use the module `random`.
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning"),
]


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    with live(make_service(folder, fake_model(), max_waiting=64, hosts=())) as url:
        yield schemathesis.openapi.from_url(f"{url}/v1/openapi.json")


def test_no_answer_is_a_server_error(documented):
    asked = set()
    for found in documented.get_all_operations():
        operation = found.ok()
        asked.add((operation.method.upper(), operation.path))

        @hypothesis.settings(
            max_examples=40, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def ask(case):
            answer = case.call(timeout=30)
            case.validate_response(answer, checks=[not_a_server_error])

        ask()
    assert {("POST", "/v1/complete"), ("GET", "/v1/jobs/{id}/events")} <= asked
    assert len(asked) == sum(map(len, documented.raw_schema["paths"].values()))
