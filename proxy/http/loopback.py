"""A private port of one worker, where code that agents run reaches the process of its turn."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from litestar.types import ASGIApp

from chattable.proxy.http.protocol import BoundedHttp


@asynccontextmanager
async def loopback(app: ASGIApp) -> AsyncGenerator[str]:
    """Serves `app` on a free loopback port as well, and yields its base URL."""
    door = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # not serve(): signals and the main loop are the first door's business
    await server.startup([door])
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
    finally:
        await server.shutdown([door])
