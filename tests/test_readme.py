"""What README.md says is what happens."""

import re
import subprocess
import sys

from .cases import CASES
from .program import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Returns the code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def without_time(text: str) -> str:
    return re.sub(r"\d\d:\d\d", "HH:MM", text)


def test_the_first_command_prints_what_the_readme_shows() -> None:
    command = blocks("sh")[0].strip().rpartition(" && ")[2].split()
    assert command[0] == ".venv/bin/python"
    result = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    assert result.returncode == 0
    (shown,) = blocks("text")
    assert without_time(result.stdout) == without_time(shown)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [block for block in blocks("sh") if "pytest" in block]

    assert len(commands) == 1
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == commands[0].strip()


def test_each_row_of_the_table_is_a_case() -> None:
    rows = re.findall(r"^\| `(.*)` \| .* \| (.*) \|$", README, re.MULTILINE)

    assert len(rows) == README.count("\n| `") > 10
    for seen, to_do in rows:
        cases = [case for name, case in CASES.items() if name == seen] or [
            case for case in CASES.values() if seen in case.shows
        ]
        assert cases, f"no case shows {seen!r}"
        hints = {re.sub(r", now '.*?',", "", case.hint) for case in cases}
        assert hints == {to_do} or hints == {""}, f"the hint for {seen!r} is another one"


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
        assert on_windows == translated.replace("python3", "python")
