"""Connections that do nothing: they hold no place for ever, however many there are."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MOST = 256
"""With more open, requests are answered 503; with twice as many, further ones are cut at once."""
REQUEST_SECONDS = 20.0
"""Who has sent no whole head of a request for so long, twice at most, is cut; so is who does not read its answer."""


class Connection(H11Protocol):
    """One to the service. h11, which ends a head of more than 64 KiB."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Is called when it is there."""
        super().connection_made(transport)
        if len(self.connections) > 2 * MOST:
            transport.abort()
        else:
            self.loop.call_later(REQUEST_SECONDS, self._look, None)

    def _look(self, before: RequestResponseCycle | None) -> None:
        """Cuts it where nothing was asked since `before`, the request that was the last one then."""
        if self not in self.connections:
            return
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.abort()
        else:
            self.loop.call_later(REQUEST_SECONDS, self._look, self.cycle)
