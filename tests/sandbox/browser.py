"""The browser of a person in the sandbox, who signs in wherever a program sends them.

It opens the address that it is given and submits the form of the page that it gets, as the script
in Entra's own page does: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
"""

import html
import re
import sys

import httpx


def sign_in(address: str) -> None:
    """Opens `address` and takes what the page's form holds to the program that waits for it.

    Where Entra refuses to send anybody on, it says so on stderr, as a browser shows it to the
    person. Raises httpx.HTTPError if Entra cannot be reached, or if no program waits.
    """
    page = httpx.get(address)
    if page.is_error:
        print(f"The browser shows: {page.text}", file=sys.stderr)
        return
    (action,) = re.findall('action="(.*?)"', page.text)
    fields = re.findall('name="(.*?)" value="(.*?)"', page.text)
    data = {name: html.unescape(value) for name, value in fields}
    # The program waits on this machine, where the sandbox's proxy does not lead.
    httpx.post(html.unescape(action), data=data, trust_env=False).raise_for_status()


if __name__ == "__main__":
    sign_in(sys.argv[1])
