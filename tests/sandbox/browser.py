"""The browser of the user: it opens a page of Entra and submits the form there."""

import html
import re
import sys

import httpx

page = httpx.get(sys.argv[1])
if page.is_error:  # Entra sends nobody on; the program is not told.
    sys.exit(f"The browser shows: {page.text}")
(action,) = re.findall('action="(.*?)"', page.text)
fields = re.findall('name="(.*?)" value="(.*?)"', page.text)
data = {name: html.unescape(value) for name, value in fields}
# The program waits on this machine, where the sandbox's proxy does not lead.
httpx.post(html.unescape(action), data=data, trust_env=False).raise_for_status()
