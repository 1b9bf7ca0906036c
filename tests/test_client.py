"""get-me.yml and client/ belong together, and the client needs no more than requirements.txt."""

import ast
import importlib
import json
import re
import sys
from importlib.metadata import files
from typing import Any

import pytest
from kiota_abstractions.authentication import AnonymousAuthenticationProvider
from kiota_http.httpx_request_adapter import HttpxRequestAdapter
from openapi_spec_validator import OpenAPIV30SpecValidator
from openapi_spec_validator.readers import read_from_filename

from client.get_user_api_client import GetUserApiClient

from .program import ROOT

DESCRIPTION: dict[str, Any] = dict(read_from_filename(str(ROOT / "get-me.yml"))[0])
SCHEMAS: dict[str, Any] = DESCRIPTION["components"]["schemas"]
LOCK: dict[str, Any] = json.loads((ROOT / "client" / "kiota-lock.json").read_text())


def model_path(schema: str) -> str:
    """Returns the module for a schema: microsoft.graph.ODataErrors.MainError is Kiota's
    client.models.o_data_errors.main_error."""
    names = schema.removeprefix("microsoft.graph.").split(".")
    return ".".join(
        ["client.models", *(re.sub("(?<!^)(?=[A-Z])", "_", name).lower() for name in names)]
    )


def test_the_description_is_valid_openapi_3_0() -> None:
    assert DESCRIPTION["openapi"].startswith("3.0.")
    OpenAPIV30SpecValidator(DESCRIPTION).validate()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_each_model_reads_the_properties_of_its_schema(schema: str) -> None:
    class_name = schema.rsplit(".", 1)[-1]
    module = importlib.import_module(model_path(schema))
    model = getattr(module, class_name[0].upper() + class_name[1:])

    assert set(model().get_field_deserializers()) == set(SCHEMAS[schema]["properties"])


def test_there_is_a_schema_for_each_model() -> None:
    models = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "client" / "models").rglob("*.py")
    }

    assert models == {model_path(schema) for schema in SCHEMAS}


def test_the_client_calls_the_path_at_the_server_of_the_description() -> None:
    adapter = HttpxRequestAdapter(AnonymousAuthenticationProvider())
    request = GetUserApiClient(adapter).me.to_get_request_information()
    request.path_parameters["baseurl"] = adapter.base_url
    (server,) = DESCRIPTION["servers"]
    ((path, operations),) = DESCRIPTION["paths"].items()

    assert request.url == server["url"] + path
    assert request.http_method is not None
    assert request.http_method.value.lower() in operations


def test_the_lock_file_says_how_the_client_was_generated() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", LOCK["kiotaVersion"])
    assert (ROOT / "client" / LOCK["descriptionLocation"]).resolve() == ROOT / "get-me.yml"
    assert LOCK["clientClassName"] == GetUserApiClient.__name__
    assert GetUserApiClient.__module__.startswith(f"{LOCK['clientNamespaceName']}.")


def test_the_client_imports_nothing_outside_requirements_txt() -> None:
    allowed = set(sys.stdlib_module_names)
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        allowed.update(path.parts[0] for path in files(line.split("==")[0]) or [])
    imported: set[str] = set()
    for path in (ROOT / "client").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(name.name.split(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module is not None
                imported.add(node.module.split(".")[0])

    assert "kiota_abstractions" in imported
    assert imported - allowed == set()


def test_requirements_txt_pins_the_six_packages_and_nothing_else() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()

    assert all(re.fullmatch(r"[a-z-]+==\d+(\.\d+)+", line) for line in lines)
    assert sorted(line.split("==")[0] for line in lines) == [
        "azure-identity",
        "microsoft-kiota-abstractions",
        "microsoft-kiota-authentication-azure",
        "microsoft-kiota-http",
        "microsoft-kiota-serialization-json",
        "microsoft-kiota-serialization-text",
    ]
