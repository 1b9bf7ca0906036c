"""Every refusal and every fault ends in a message, as tests/cases.py says."""

import json
import random
import re
from typing import Any

import pytest

from .cases import BLOCKED_HINT, BROWSER_HINT, CASES, PAGE
from .program import GREETING, PROMPT, run
from .sandbox import Answer, Sandbox, entra_error, graph_error
from .sandbox.sandbox import USER


def expect_readable(message: str) -> None:
    """Checks what holds for every message: lines for a person, and nothing that is not for one."""
    assert 1 <= len(message.splitlines()) <= 2
    assert all(line.strip() and line.isprintable() for line in message.splitlines())
    assert not re.search(r'Traceback|\bNone\b|<html|{"|: $|hunt', message, re.MULTILINE)


@pytest.mark.parametrize("name", CASES)
def test_a_case_ends_as_its_row_says(name: str) -> None:
    case = CASES[name]
    with Sandbox(pending=0, interval=1, expires_in=case.expires_in) as sandbox:
        for endpoint, answers in case.answers.items():
            sandbox.replace(endpoint, *answers, times=case.times)
        result = run(sandbox, variables=case.variables)
    message = PROMPT.sub("", result.stderr)

    assert len(PROMPT.findall(result.stderr)) == case.prompts
    if case.greets:
        assert (result.returncode, result.stdout, message) == (0, GREETING, "")
        return
    assert (result.returncode, result.stdout) == (1, "")
    expect_readable(message)
    first, _, hint = message.partition("\n")
    assert f"{first}\n".startswith(case.shows)
    assert all(text in first for text in case.also)
    assert hint.rstrip("\n") == case.hint


AGAIN_AND_AGAIN = """
import sys
import get_user

for _ in range(int(sys.argv[1])):
    status = get_user.main()
    for stream in (sys.stdout, sys.stderr):
        print(f"<ended {status}>", file=stream, flush=True)
"""


@pytest.mark.parametrize(
    ("numbers", "hint"),
    [
        ((530035, 53003, 53000, 530003, 50097, 50005), BLOCKED_HINT),
        ((65001, 50076, 50079, 50158), BROWSER_HINT),
    ],
)
def test_codes_with_the_same_remedy_have_the_same_hint(
    sandbox: Sandbox, numbers: tuple[int, ...], hint: str
) -> None:
    answers = [entra_error(number, "invalid_grant", "No.") for number in numbers]
    sandbox.replace("devicecode", *answers)
    result = run(sandbox, "-c", AGAIN_AND_AGAIN, str(len(numbers)))

    lines = [line for line in result.stderr.splitlines() if not line.startswith("<ended")]
    assert lines[1::2] == [hint] * len(numbers)
    assert all(f"AADSTS{n}: " in line for n, line in zip(numbers, lines[::2], strict=True))


ROUNDS = 25
JUNK: list[Any] = [
    *[None, True, -1, 1e400, "", "x", "\x1b[31m\u202e\r\n", "None", [], [None], {}, {"a": 1}],
    *["\ud800", "Z" * 5000, "https://[", [[[[1]]]], {"error": {"error": 1}}],
]
VALID: dict[str, list[dict[str, Any]]] = {
    "discovery": [
        {
            "authorization_endpoint": "https://login.microsoftonline.com/common/authorize",
            "token_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            "device_authorization_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0"
            "/devicecode",
            "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0",
        }
    ],
    "devicecode": [
        {"user_code": "C", "device_code": "D", "verification_uri": "https://u", "message": "M"},
        json.loads(entra_error(700016, "unauthorized_client", "Not found.").body),
    ],
    "token": [
        {
            "token_type": "Bearer",
            "scope": "User.Read",
            "expires_in": 3600,
            "access_token": "A",
            "refresh_token": "R",
            "id_token": "e30.e30.c2ln",
            "client_info": "e30",
        },
        json.loads(entra_error(53003, "invalid_grant", "Blocked.").body),
    ],
    "me": [USER, json.loads(graph_error(403, "Forbidden", "No.").body)],
}


def damaged(chance: random.Random, content: dict[str, Any]) -> Answer:
    """Returns an answer with one or two of its parts replaced by something that nobody expects."""
    content = dict(content)
    for name in chance.sample(sorted(content), k=min(len(content), chance.choice([0, 1, 1, 2]))):
        content[name] = chance.choice(JUNK)
    body = json.dumps(chance.choice([content] * 6 + JUNK)).encode()
    if chance.random() < 0.2:
        body = body[: chance.randrange(len(body) + 1)]
    if chance.random() < 0.1:
        body = PAGE
    if chance.random() < 0.1:
        body = bytes(chance.randrange(256) for _ in range(40))
    types = ["application/json"] * 6 + ["text/html", "application/xml", "text/plain", "x", "a/b; c"]
    headers = {"Content-Type": chance.choice(types), "request-id": chance.choice(["R", "", "\x9b"])}
    return Answer(chance.choice([200, 200, 200, 201, 400, 401, 403, 404, 501]), body, headers)


@pytest.mark.parametrize("endpoint", VALID)
def test_whatever_a_service_answers_ends_in_a_message(endpoint: str) -> None:
    chance = random.Random(endpoint)
    with Sandbox(pending=0, interval=1) as sandbox:
        for _ in range(ROUNDS):
            sandbox.replace(endpoint, damaged(chance, chance.choice(VALID[endpoint])))
        result = run(sandbox, "-c", AGAIN_AND_AGAIN, str(ROUNDS))

    assert result.returncode == 0
    outputs = re.split(r"<ended (\d)>\n", result.stdout)
    messages = re.split(r"<ended \d>\n", result.stderr)
    assert len(messages) == ROUNDS + 1
    for output, status, message in zip(outputs[::2], outputs[1::2], messages, strict=False):
        message = re.sub("To sign in, open .*\n", "", message)
        if status == "0":
            assert re.fullmatch(r"Hello.*, your ID is .+\n", output)
            assert message == ""
        else:
            assert (output, status) == ("", "1")
            expect_readable(message)
