"""What README.md says is what happens; its changes are in test_changes.py."""

import json
import os
import re
import subprocess
import sys

import pytest

from .cases import CASES, NOBODY_IS_THERE
from .copies import CHANGES
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
    "AZURE_CLIENT_ID": ({"AZURE_CLIENT_ID": ANOTHER_GUID}, "AADSTS50059"),
    "AZURE_TENANT_ID": ({"AZURE_TENANT_ID": ANOTHER_GUID}, "authority configuration"),
    "AZURE_AUTHORITY_HOST": (
        {"AZURE_AUTHORITY_HOST": "login.microsoftonline.us"},
        "Tunnel connection failed: 403",
    ),
    "HTTPS_PROXY": ({"HTTPS_PROXY": NOBODY_IS_THERE}, "Connection refused"),
    "ALL_PROXY": ({"HTTPS_PROXY": None, "ALL_PROXY": NOBODY_IS_THERE}, "Connection refused"),
    # The missing file ends it before anything is sent past the sandbox.
    "NO_PROXY": (
        {"NO_PROXY": SIGN_IN_HOST, "REQUESTS_CA_BUNDLE": "nowhere.pem"},
        "invalid path: nowhere.pem",
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


def test_each_message_of_the_table_is_that_of_a_case() -> None:
    table = rows(section("When it does not work"))
    messages = [text for first, _ in table for text in re.findall("`(.*?)`", first)]

    assert len(messages) > 5
    for text in messages:
        assert any(text in f"{case.shows} {case.also}" for case in CASES.values()), text


def test_each_change_is_tried() -> None:
    for heading, text in re.findall(r"^### (.*?)\n(.*?)(?=^#)", README, re.DOTALL | re.MULTILINE):
        numbers = [
            number for where, some in CHANGES.values() if where == heading for number in some
        ]
        assert len(blocks("diff", text)) == len(numbers), heading


def test_the_client_reads_what_is_described_and_is_regenerated_as_it_was_made() -> None:
    properties = re.search(r"(?s)\n  schemas:\n(.*)", (ROOT / "get-me.yml").read_text())
    assert properties
    described = re.findall(r"^        (\w+):$", properties[1], re.MULTILINE)
    models = (path.read_text() for path in (ROOT / "client" / "models").rglob("*.py"))
    read = re.findall(r'^ *"(\w+)": lambda n ', "".join(models), re.MULTILINE)
    assert sorted(read) == sorted(described)

    lock = json.loads((ROOT / "client" / "kiota-lock.json").read_text())
    (commands,) = blocks("shell", section("Regenerate the client"))
    assert f" --version {lock['kiotaVersion']}\n" in commands


def test_requirements_txt_pins_the_six_packages_and_nothing_else() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()

    assert len(lines) == 6
    assert all(
        re.fullmatch(r"(azure-identity|microsoft-kiota-[a-z-]+)==[\d.]+", line) for line in lines
    )


def test_every_link_within_it_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https://)(.*?)\)", README)
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {f"#{re.sub('[^a-z0-9 -]', '', text.lower()).replace(' ', '-')}" for text in headings}

    assert len(targets) > 5
    for target in targets:
        assert target in anchors or (ROOT / target).exists(), target


@pytest.mark.skipif(sys.platform == "win32", reason="it measures with os.wait4")
def test_the_benchmark_prints_a_table() -> None:
    (command,) = re.findall("`.venv/bin/python (-m tests.benchmark)`", README)
    result = run_here(*command.split(), "--rounds", "1")

    assert result.returncode == 0
    *_, bare, ours = result.stdout.splitlines()
    assert bare.startswith("| bare script | 1.00 ")
    assert ours.startswith("| get_user.py |")
    assert ours.endswith("| 1.00 |"), "both make the same requests"
