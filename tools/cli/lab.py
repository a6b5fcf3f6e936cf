"""`quorix lab NAME`: experiments that check what Quorix claims. One file each in `tools/lab`."""

from __future__ import annotations

from tools.cli.measure import Measurements

group = Measurements("experiment", name="lab", help="Experiments that check what Quorix claims.")
