"""The browser of a person in the sandbox, who signs in wherever a program sends them.

It opens the address that it is given and submits the form of the page that it gets, as the script
in Entra's own page does: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
"""

import sys
from html.parser import HTMLParser

import httpx


class Form(HTMLParser):
    """The form of a page: `action` is where its `fields` go."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = attributes["action"]
        elif tag == "input":
            self.fields[attributes["name"]] = attributes["value"]


def sign_in(address: str) -> None:
    """Opens `address` and takes what the page's form holds to the program that waits for it.

    Where Entra refuses to send anybody on, it says so on stderr, as a browser shows it to the
    person. Raises httpx.HTTPError if Entra cannot be reached, or if no program waits.
    """
    page = httpx.get(address)
    if page.is_error:
        print(f"The browser shows: {page.text}", file=sys.stderr)
        return
    form = Form(page.text)
    # The program waits on this machine, where the sandbox's proxy does not lead.
    httpx.post(form.action, data=form.fields, trust_env=False).raise_for_status()


if __name__ == "__main__":
    sign_in(sys.argv[1])
