"""What README.md says is what happens; its recipes are in test_recipes.py."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from . import benchmark
from .cases import CASES, NOBODY_IS_THERE
from .program import ROOT, Variables, run
from .readme import README, blocks, rows, section
from .sandbox import SIGN_IN_HOST, Sandbox


def without_time(text: str) -> str:
    return re.sub(r"\d\d:\d\d", "HH:MM", text)


def run_here(*command: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python COMMAND` in this project, its two outputs as one."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def test_the_first_command_prints_what_the_readme_shows() -> None:
    command = blocks("sh")[0].strip().rpartition(" && ")[2].split()
    assert command[0] == ".venv/bin/python"
    result = run_here(*command[1:])

    assert result.returncode == 0
    (shown,) = blocks("text")
    assert without_time(result.stdout) == without_time(shown)


def test_ci_runs_the_commands_of_the_readme() -> None:
    workflows = ROOT / ".github" / "workflows"
    for language in ("sh", "powershell"):
        (tests,) = blocks(language, section("Run the tests"))
        for command in (blocks(language)[0], tests):
            assert f" {command}" in (workflows / "tests.yml").read_text()
    (regenerate,) = blocks("shell", section("Regenerate the client"))
    for command in regenerate.splitlines(keepends=True):
        assert f" {command}" in (workflows / "client.yml").read_text()

    (command,) = blocks("sh", section("Run the tests"))
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command.strip()


def test_the_windows_commands_are_the_same() -> None:
    for command, on_windows in zip(blocks("sh"), blocks("powershell"), strict=True):
        translated = (
            command.replace("python3 -m venv", "py -m venv")
            .replace("/bin/activate", "/Scripts/Activate.ps1")
            .replace("/bin/", "/Scripts/")
            .replace("source ", "")
            .replace(" && ", "; ")
            .replace("/", "\\")
        )
        translated = re.sub(r"export (\w+)=(.*)", r'$env:\1 = "\2"', translated)
        # PowerShell copies a list, not several arguments.
        translated = re.sub(
            r"cp -r (.*) (\S+)", lambda cp: f"cp -r {', '.join(cp[1].split())} {cp[2]}", translated
        )
        assert on_windows == translated.replace("python3", "python")


def test_each_kind_of_account_has_its_tenant() -> None:
    tenants = {audience: tenant for _, audience, tenant in rows(section("Who can sign in"))}
    named = {tenant for tenant in re.findall("`(.*?)`", "".join(tenants.values()))}

    assert set(tenants) >= {f"`{name}`" for name in re.findall("-SignInAudience (.*?) ", README)}
    assert named == {"common", "organizations", "consumers"}
    assert {f"the tenant {name!r}" for name in named - {"common"}} <= set(CASES)


def test_it_quotes_the_lines_of_the_five_steps() -> None:
    lines = [line.strip() for line in (ROOT / "get_user.py").read_text().splitlines()]
    quoted = blocks("python", section("How it works"))
    places = []
    for block in quoted:
        excerpt = [line.strip() for line in block.splitlines()]
        (place,) = (
            place for place in range(len(lines)) if lines[place:][: len(excerpt)] == excerpt
        )
        places.append(place)

    assert len(places) == 5
    assert all(earlier < later for earlier, later in pairwise(places))


def test_the_diagram_shows_the_requests(sandbox: Sandbox) -> None:
    run(sandbox)
    (diagram,) = blocks("mermaid")
    names = dict(re.findall(r"participant (\w) as (.*)", diagram))
    shown = [
        (names[to], method, path)
        for to, method, path in re.findall(r"P->>(\w): (GET|POST) (\S+)", diagram)
    ]

    assert shown == [(request.host, request.method, request.path) for request in sandbox.requests]


ANOTHER_GUID = "00000000-0000-0000-0000-000000000000"
SETTINGS: dict[str, tuple[Variables, str]] = {
    "AZURE_CLIENT_ID": ({"AZURE_CLIENT_ID": ANOTHER_GUID}, "AADSTS700016"),
    "AZURE_TENANT_ID": ({"AZURE_TENANT_ID": ANOTHER_GUID}, "authority configuration"),
    "AZURE_AUTHORITY_HOST": (
        {"AZURE_AUTHORITY_HOST": "login.microsoftonline.us"},
        "no usable answer from login.microsoftonline.us through the proxy: ",
    ),
    "HTTPS_PROXY": ({"HTTPS_PROXY": NOBODY_IS_THERE}, "ConnectionRefused"),
    "ALL_PROXY": ({"HTTPS_PROXY": None, "ALL_PROXY": NOBODY_IS_THERE}, "ConnectionRefused"),
    # The missing file ends it before anything is sent past the sandbox.
    "NO_PROXY": (
        {"NO_PROXY": SIGN_IN_HOST, "REQUESTS_CA_BUNDLE": "nowhere.pem"},
        f"no usable answer from {SIGN_IN_HOST}: ",
    ),
    "REQUESTS_CA_BUNDLE": ({"REQUESTS_CA_BUNDLE": "nowhere.pem"}, "nowhere.pem"),
    "CURL_CA_BUNDLE": (
        {"REQUESTS_CA_BUNDLE": None, "CURL_CA_BUNDLE": "nowhere.pem"},
        "nowhere.pem",
    ),
    "SSL_CERT_FILE": ({"SSL_CERT_FILE": "nowhere.pem"}, "No such file"),
}


def test_each_setting_of_the_table_is_tried() -> None:
    first = "".join(row[0] for row in rows(section("Settings")))

    assert re.findall("`(.*?)`", first) == list(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_what_happens(sandbox: Sandbox, name: str) -> None:
    variables, shown = SETTINGS[name]
    result = run(sandbox, variables=variables)

    assert result.returncode == 1
    assert shown in result.stderr


def test_each_row_of_the_table_is_a_case() -> None:
    table = rows(section("When it does not work"))

    assert len(table) > 10
    for cell, _, to_do in table:
        seen = cell.strip("`")
        cases = [case for name, case in CASES.items() if name == seen] or [
            case for case in CASES.values() if seen in case.shows
        ]
        assert cases, f"no case shows {seen!r}"
        (hint,) = {re.sub(r", now '.*?',", "", case.hint) for case in cases}
        assert to_do.startswith(hint), f"the hint for {seen!r} is another one"


def test_each_snippet_belongs_to_a_recipe_that_is_tried() -> None:
    tried = (ROOT / "tests" / "test_recipes.py").read_text(encoding="utf-8")
    headings = re.split(r"^#+ (.*)$", README, flags=re.MULTILINE)
    for heading, text in zip(headings[1::2], headings[2::2], strict=True):
        if "```diff" in text or ("```python" in text and heading != "How it works"):
            assert f'"{heading}"' in tried


def test_the_client_is_regenerated_with_the_version_that_made_it() -> None:
    lock = json.loads((ROOT / "client" / "kiota-lock.json").read_text())
    (commands,) = blocks("shell", section("Regenerate the client"))

    assert f" --version {lock['kiotaVersion']}\n" in commands


def test_every_link_within_it_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https://)(.*?)\)", README)
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {f"#{re.sub('[^a-z0-9 -]', '', text.lower()).replace(' ', '-')}" for text in headings}

    assert len(targets) > 5
    for target in targets:
        assert target in anchors or (ROOT / target).exists(), target


@pytest.mark.skipif(sys.platform == "win32", reason="it measures with os.wait4")
def test_the_benchmark_prints_the_table_that_it_shows() -> None:
    (command,) = blocks("shell", section("What it costs"))
    assert command.split()[:3] == ["python", "-m", "tests.benchmark"]
    result = run_here(*command.split()[1:], "--rounds", "1")

    assert result.returncode == 0
    printed = result.stdout.splitlines()
    shown = [line for line in section("What it costs").splitlines() if line.startswith("|")]
    assert printed[:3] == shown[:3]
    assert [line.split("|")[1].strip() for line in shown[2:]] == list(benchmark.PROGRAMS)
    for line in printed[2:]:
        assert line.endswith("| 1.00 |"), "every program makes the same requests"
