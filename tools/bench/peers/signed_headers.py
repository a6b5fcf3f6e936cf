"""The signed headers of bittensor 11 (btauth/1) with aiohttp on both sides: what its users write by hand.

    PYTHON signed_headers.py REQUESTS        PYTHON has bittensor 11 and aiohttp installed

The request is signed and verified; the reply is not signed, and nothing is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

bittensor: Any = importlib.import_module("bittensor")
signing: Any = importlib.import_module("bittensor.http_auth")
aiohttp: Any = importlib.import_module("aiohttp")
web: Any = importlib.import_module("aiohttp.web")
load: Any = importlib.import_module("load")
BODY = b'{"prompt": "the quick brown"}'
PATH = "/generate"


def key(uri: str) -> Any:
    return importlib.import_module("bittensor.sp_core").Keypair.create_from_uri(uri)


def serve(pipe: Any) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Any) -> None:
    own = key("//server").ss58_address

    async def generate(request: Any) -> Any:
        body = await request.read()
        caller = signing.verify(request.headers, body, method="POST", path=PATH, self_hotkey_ss58=own)
        return web.Response(body=body, headers={"caller": caller.hotkey_ss58})

    app = web.Application()
    app.router.add_post(PATH, generate)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    load.answer_with_cpu_time(pipe)
    pipe.send((runner.addresses[0][1], own))
    await asyncio.sleep(600)


@contextlib.asynccontextmanager
async def connect(address: tuple[int, str]) -> AsyncIterator[Any]:
    port, receiver = address
    own, url = key("//client"), f"http://127.0.0.1:{port}{PATH}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:

        async def request() -> None:
            headers = signing.sign(own, method="POST", path=PATH, body=BODY, receiver_ss58=receiver)
            async with session.post(url, data=BODY, headers=headers) as reply:
                if reply.status != 200 or await reply.read() != BODY:
                    raise RuntimeError(f"HTTP {reply.status}")

        yield request


if __name__ == "__main__":
    load.main(serve, connect, bittensor.__version__)
