"""The browser of the user: it opens a page of Entra and submits the form there."""

import sys

import httpx

page = httpx.get(sys.argv[1]).raise_for_status().json()  # An error is shown only here.
# The program waits on this machine, where the sandbox's proxy does not lead.
httpx.post(page["action"], data=page["fields"], trust_env=False).raise_for_status()
