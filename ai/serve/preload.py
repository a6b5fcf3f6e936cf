"""What the fork server does once, so that every neuron and validator shares the pages of torch and its own imports.

No tensor is computed here: a thread pool must not exist before the fork.
"""

# ruff: noqa: F401 - imported for the children
import gc

import anyio._backends._asyncio  # what httpx imports at its first call
import httpx
import numpy
import safetensors.torch
import torch
import uvloop
import websockets.asyncio.client

import ai.models.corpus
import ai.models.expert
import ai.models.train
import ai.serve.neuron
import ai.serve.training
import ledger.client.remote

ai.models.corpus.identity()  # remembered by the children
httpx.AsyncClient(trust_env=False)  # likewise: it reads the certificates and imports its transports
gc.collect()
gc.freeze()  # collections in the children would copy the pages they only look at
