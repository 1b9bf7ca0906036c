"""get_user.py, run as its user runs it; what it says when it fails is in test_failures.py."""

import re
import signal
import sys
import time
from pathlib import Path

import pytest

from .project import GET_USER, GREETING, PROMPT, ROOT, Process, copy, edit, expect, run
from .sandbox import Sandbox, entra, graph, graph_error
from .sandbox.answers import SILENT

CALL = "        me = await client.me.get()"


def test_it_greets_with_one_prompt_and_four_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(sandbox, cwd=tmp_path)

    expect(result, 0, GREETING)
    assert PROMPT.fullmatch(result.stderr)
    discovery, devicecode, token, me = sandbox.requests
    assert (discovery.host, discovery.path.split("/")[1]) == (entra.HOST, "common")
    assert devicecode.form["client_id"] == entra.CLIENT_ID
    scopes = {"User.Read", "offline_access", "openid", "profile"}
    assert set(devicecode.form["scope"].split()) == scopes
    assert token.path == "/common/oauth2/v2.0/token"
    assert (me.host, me.method, me.path) == (graph.HOST, "GET", "/v1.0/me")
    assert list(tmp_path.iterdir()) == []


def test_importing_it_does_nothing_but_define(sandbox: Sandbox) -> None:
    script = "import get_user, signal; print(signal.getsignal(2) is signal.default_int_handler)"
    result = run(sandbox, "-c", script)

    expect(result, 0, "True\n", "")
    assert sandbox.requests == []


@pytest.mark.parametrize("client_id", [None, " \t"])
def test_without_a_client_id_it_says_what_to_set(sandbox: Sandbox, client_id: str | None) -> None:
    result = run(sandbox, variables={"AZURE_CLIENT_ID": client_id})

    says = "Set AZURE_CLIENT_ID to the client ID of an app that allows public client flows.\n"
    expect(result, 1, "", says)
    assert sandbox.requests == []


@pytest.mark.parametrize("tenant", ["", entra.TENANT_ID])
def test_settings_lose_their_white_space(sandbox: Sandbox, tenant: str) -> None:
    ids = {"AZURE_TENANT_ID": tenant, "AZURE_CLIENT_ID": entra.CLIENT_ID}
    result = run(sandbox, variables={name: f" \t{ids[name]} \n" for name in ids})

    expect(result, 0, GREETING, "")
    paths = [request.path.split("/")[1] for request in sandbox.requests]
    assert set(paths) == {tenant or "common", "v1.0"}


@pytest.mark.parametrize("name", [None, "\u0645\u062d \u674e 👩\u200d💻"])
def test_any_name_is_greeted(sandbox: Sandbox, name: str | None) -> None:
    sandbox.user["displayName"] = name
    result = run(sandbox)

    expect(result, 0, f"Hello {name or 'there'}, your ID is {graph.USER['id']}\n", "")


def test_it_greets_where_stdout_only_writes(sandbox: Sandbox) -> None:
    # As in IDLE and Jupyter, where it cannot be reconfigured.
    shell = "types.SimpleNamespace(write=sys.stdout.write, flush=sys.stdout.flush)"
    run_it = f"runpy.run_path({GET_USER!r}, run_name='__main__')"
    result = run(sandbox, "-c", f"import runpy, sys, types; sys.stdout = {shell}; {run_it}")

    expect(result, 0, GREETING, "")


def test_further_calls_need_no_further_sign_in(sandbox: Sandbox, script: Path) -> None:
    further = "        await asyncio.gather(client.me.get(), client.me.get())\n"
    other_scope = '        credential.get_token("Files.Read", enable_cae=True)\n'
    edit(script, CALL, f"{further}{other_scope}{CALL}")
    result = run(sandbox, str(script))

    expect(result, 0, GREETING, "")
    assert sandbox.asked() == ["discovery", "devicecode", "token", "me", "me", "token", "me"]


MOMENTS = {
    "at the prompt": ("token", SILENT),
    "while it polls": ("token", entra.Refused(70016).answer),
    "while Graph is answering": ("me", SILENT),
}
"""The request with which the moment comes, and the answer to it."""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGINT to send")
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_ctrl_c_ends_and_closes_it(sandbox: Sandbox, script: Path, moment: str) -> None:
    endpoint, answer = MOMENTS[moment]
    sandbox.replace(endpoint, answer, times=None)
    finally_ = '        finally:\n            print("closed")'
    edit(script, CALL, f"        try:\n            me = await client.me.get()\n{finally_}")

    def interrupt(process: Process) -> None:
        while process.poll() is None and endpoint not in sandbox.asked():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)

    result = run(sandbox, str(script), meanwhile=interrupt, within=5)
    expect(result, 130, "closed\n", "")


def test_a_call_to_another_host_gets_no_token(sandbox: Sandbox, script: Path) -> None:
    elsewhere = f'        request_adapter.base_url = "https://{entra.HOST}/v1.0"\n'
    edit(script, "        client = ", f"{elsewhere}        client = ")
    result = run(sandbox, str(script))

    expect(result, 1, "")
    (request,) = sandbox.requests
    assert (request.host, request.path) == (entra.HOST, "/v1.0/me")
    assert "authorization" not in request.headers


def test_it_closes_what_it_opened(sandbox: Sandbox, script: Path) -> None:
    # A socket that nobody closes shows that Python would warn.
    edit(script, CALL, f"        __import__('socket').socket()\n{CALL}")
    sandbox.replace("me", graph_error(403, "Forbidden", "No."))
    result = run(sandbox, "-X", "dev", str(script))

    expect(result, 1, "")
    assert len(re.findall("ResourceWarning: unclosed", result.stderr)) == 1


def test_a_mistake_keeps_its_traceback(sandbox: Sandbox, script: Path) -> None:
    edit(script, "client.me.get()", "client.me.gte()")
    result = run(sandbox, str(script))

    expect(result, 1, "")
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "\nAttributeError: 'MeRequestBuilder' object has no attribute 'gte'" in result.stderr


def test_the_six_packages_are_enough(sandbox: Sandbox, tmp_path: Path) -> None:
    for_tests = (ROOT / "tests" / "requirements.txt").read_text()
    names = re.findall("^([a-z0-9-]+)==", for_tests, re.MULTILINE)
    script = copy(tmp_path / "mein Projekt für Ada")
    # A name for which sys.modules has None is one that Python does not find.
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({names}))"
    code += f"; sys.path[0] = {str(script.parent)!r}"
    code += f"; runpy.run_path({str(script)!r}, run_name='__main__')"
    result = run(sandbox, "-c", code, variables={"PYTHONPATH": None})

    assert {"pytest", "trustme"} <= set(names)
    expect(result, 0, GREETING, "")
