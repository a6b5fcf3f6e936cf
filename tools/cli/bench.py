"""`quorix bench NAME`: measurements of speed and size on this machine. One file each in `tools/bench`."""

from __future__ import annotations

from tools.cli.measure import Measurements

group = Measurements("benchmark", name="bench", help="Measurements on this machine.")
