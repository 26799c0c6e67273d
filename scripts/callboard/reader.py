"""What only HTTP tells: what was said in a thread, and what the server has."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any, Final

from callboard.address import Address
from callboard.errors import CallboardError, CallboardUnreachable
from callboard.thread import Thread
from callboard.token import TokenSource, find_token

TIMEOUT_S: Final = 10.0

MAY_PASS: Final = frozenset({408, 421, 425, 429})
"""Refusals of the 4xx that another attempt may not meet; those of the 5xx all may pass."""


class ThreadReader:
    """Reads documents.

    Args:
        address: The server's.
        token: Credentials; None for none.
    """

    def __init__(self, address: Address, token: TokenSource | None) -> None:
        self._address = address
        self._token = token

    async def read_default_agent(self) -> str:
        """Return the agent that answers where none is named.

        Raises:
            CallboardUnreachable: If the server cannot be reached, or refuses for now.
            CallboardError: If it refuses for good.
        """
        document = await self._fetch(self._address.locate("agents"))
        if document is None:
            raise CallboardError(f"{self._address.http} does not tell its agents: it seems to be no Callboard server")
        return str(document["default"])

    async def read_thread(self, thread: Thread, *, before: int | None = None, limit: int) -> dict[str, Any] | None:
        """Return a page of a thread; None if there is no such thread.

        Raises:
            CallboardError: As `read_default_agent` does.
        """
        return await self._fetch(
            self._address.locate("threads", thread.agent_id, thread.thread_id, before=before, limit=limit)
        )

    async def read_end(self, thread: Thread, event_seq: int) -> dict[str, Any] | None:
        """Return how the request at `event_seq` ended, as a thread's page tells it; None if it has not ended.

        Raises:
            CallboardError: As `read_default_agent` does.
        """
        before = None
        while (page := await self.read_thread(thread, before=before, limit=100)) is not None:
            answers = [said for said in page["messages"] if said["role"] == "agent"]
            found = [said for said in answers if said["eventSeq"] == event_seq]
            before = page.get("before")
            if found or before is None or any(said["eventSeq"] < event_seq for said in answers):
                return found[0] if found else None
        return None

    async def _fetch(self, url: str) -> dict[str, Any] | None:
        """GET a JSON document; None if there is none."""
        token = await find_token(self._token)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (made of an http address)
        return await asyncio.to_thread(fetch_document, request)


def fetch_document(request: urllib.request.Request) -> dict[str, Any] | None:
    """Carry a request out; see `ThreadReader`. Blocks."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            document: dict[str, Any] = json.load(response)
            return document
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
        kind = CallboardUnreachable if error.code >= 500 or error.code in MAY_PASS else CallboardError
        raise kind(f"{request.full_url}: {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise CallboardUnreachable(f"{request.full_url} cannot be read: {error}") from error
