"""One Axon and one Dendrite of bittensor 10, used as its documentation shows, with its own request verification.

    PYTHON axon_dendrite.py REQUESTS         PYTHON has bittensor 10 installed

The Dendrite asks a service in the internet for its address when it is made; here it is given loopback instead. The reply
is not signed, and nothing is recorded: that is how it is.
"""

import contextlib
import importlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.argv[1:], requests = [], sys.argv[1:]  # its configuration reads the arguments

bittensor: Any = importlib.import_module("bittensor")
load: Any = importlib.import_module("load")
PROMPT = "the quick brown"


class Prompt(bittensor.Synapse):  # type: ignore[misc]
    """A request whose prompt is part of what is signed. Annotations are read at run time: no __future__ here."""

    required_hash_fields: tuple[str, ...] = ("prompt",)
    prompt: str = ""
    completion: str = ""


def wallet(name: str) -> Any:
    folder = Path(tempfile.gettempdir()) / f"bench-wallets-{os.getuid()}"
    made = importlib.import_module("bittensor_wallet").Wallet(name="bench", hotkey=name, path=str(folder))
    made.create_if_non_existent(coldkey_use_password=False, hotkey_use_password=False)
    return made


def forward(synapse: Prompt) -> Prompt:
    synapse.completion = synapse.prompt
    return synapse


def serve(pipe: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    axon = bittensor.Axon(wallet=wallet("server"), port=port, ip="127.0.0.1", external_ip="127.0.0.1")
    axon.attach(forward_fn=forward)
    axon.start()
    while True:  # `start` returns before the socket listens
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.05)
    load.answer_with_cpu_time(pipe)
    pipe.send((port, axon.wallet.hotkey.ss58_address))
    time.sleep(600)


@contextlib.asynccontextmanager
async def connect(address: tuple[int, str]) -> AsyncIterator[Any]:
    networking: Any = importlib.import_module("bittensor.utils.networking")
    networking.get_external_ip = lambda: "127.0.0.1"
    port, hotkey = address
    target = bittensor.AxonInfo(version=1, ip="127.0.0.1", port=port, ip_type=4, hotkey=hotkey, coldkey=hotkey)
    dendrite = bittensor.Dendrite(wallet=wallet("client"))

    async def request() -> None:
        answer = await dendrite(axons=target, synapse=Prompt(prompt=PROMPT), timeout=12, deserialize=False)
        if answer.completion != PROMPT:
            raise RuntimeError(f"{answer.dendrite.status_code} {answer.dendrite.status_message}")

    try:
        yield request
    finally:
        await dendrite.aclose_session()


if __name__ == "__main__":
    wallet("server"), wallet("client")
    sys.argv[1:] = requests
    load.main(serve, connect, bittensor.__version__)
