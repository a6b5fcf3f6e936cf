"""A validator: judge a subnet on texts of your own.    python validator.py hotkey.json 2 http://127.0.0.1:9900 my.txt ...

It probes once an epoch, scores each neuron by what it adds to the others (Shapley), and votes by commit and reveal. Its
hotkey must be registered; for its votes to count it needs a permit, which the stake on it decides.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from ai import Metagraph, Validator, ValidatorConfig, report
from ledger.client.keys import read_key_file
from ledger.client.remote import RemoteChain
from ledger.errors import Error


async def main(key_file: str, netuid: int, rpc: str, *texts: str) -> None:
    key = read_key_file(Path(key_file))
    node: Any = RemoteChain(rpc)  # it has all methods of ChainApi
    async with node as api:
        graph = await Metagraph(api, netuid).sync()
        me = graph.find(key.public)  # where it is not registered, the error says how to do that
        report({"event": "found", "netuid": netuid, "uid": me.uid, "permit": me.permit, "serving": len(graph.serving)})
        probes = {Path(text).stem: Path(text).read_bytes() for text in texts}  # a domain each, of 128 bytes or more
        config = ValidatorConfig("validator", key, (netuid,), Path("validator-home"), probe_windows=8, probe_cuts=4)
        validator = Validator(config, api, await api.system_properties(), report, probes or None)  # None: the usual texts
        await validator.run()


if __name__ == "__main__":
    key_file, netuid, rpc, *texts = sys.argv[1:]
    try:
        asyncio.run(main(key_file, int(netuid), rpc, *texts))
    except Error as error:  # such as a hotkey that is not registered, or a node that does not answer
        sys.exit(f"{error}\nnext: {error.hint}")
