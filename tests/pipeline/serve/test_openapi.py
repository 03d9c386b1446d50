"""OpenAPI: whatever it allows is answered as it says, whatever it forbids is refused; the documents name all of it."""

import re
from pathlib import Path

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import load_all_checks

from tests.pipeline.serve.conftest import TOKEN, Live

load_all_checks()
ROOT = Path(__file__).parents[3]
FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # schemathesis's own
@pytest.mark.parametrize("token", [None, TOKEN])
def test_every_answer_is_one_that_openapi_names(request: pytest.FixtureRequest, token: str | None) -> None:
    live: Live = request.getfixturevalue("guarded" if token else "live")
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    tried = []
    for found in schema.get_all_operations():
        operation = found.ok()

        @FEW
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, timeout=30)

        ask()
        tried.append(operation.label)
    assert "POST /v1/score" in tried
    assert len(tried) == 7
    assert live.client.get("/healthz").status_code == 200


def test_examples_are_what_they_are_examples_of(live: Live) -> None:
    found = live.client.get("/openapi.json").json()
    schemas = found["components"]["schemas"]
    example = schemas["JobShown"]["example"]
    whole = {**schemas["JobShown"], "components": found["components"]}
    jsonschema.validate(example, whole)
    body = found["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]
    jsonschema.validate(body["example"], schemas["PathAsked"])


def test_the_documents_name_every_address(live: Live) -> None:
    found = live.client.get("/openapi.json").json()
    rows = re.findall(r"^\| `([A-Z]+)` \| `(\S+)` \|", (ROOT / "docs" / "serve.md").read_text(), flags=re.MULTILINE)
    assert {(method.upper(), path) for path, of in found["paths"].items() for method in of} == set(rows)
