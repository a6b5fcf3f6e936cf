"""`quorix lab twins`: worlds in which every faulty authority runs as two honest copies with one key.

Partitions between the copies are drawn anew all the time. Random liars rarely say the right wrong thing at the right moment;
two copies that follow the rules do so by themselves.
"""

from __future__ import annotations

from typing import Any

import click

from tools.lab.frame import Run, experiment
from tools.lab.simulate import CAMPAIGN_OPTIONS, WORLD_OPTIONS, campaign, one_world

MAX_N = 7


@experiment("twins", about="consensus against faulty authorities that run twice with one key", seconds=40)
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="Number of worlds.")
@click.option("--first-seed", default=0, show_default=True, help="Seed of the first world; to go on where a run ended.")
@click.option("--seed", type=int, default=None, help="Only the world of this seed.")
@click.option("--max-n", default=MAX_N, show_default=True, help="Authorities of the largest worlds (4 or 7).")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--without", multiple=True, help="With --seed: switch off this kind of trouble (may be repeated).")
@click.option("--trouble-ms", type=int, default=None, help="With --seed: a shorter time of trouble.")
@click.option("--trace", is_flag=True, help="With --seed: every transition with its rule.")
def twins(run: Run, **options: Any) -> None:
    """Six seconds of shifting partitions, then they end: nothing may fork, and all must go on within 20 s."""
    from tools.lab.sim.twins import twins_plan

    if options["max_n"] < 4:
        raise click.BadParameter("at least 4", param_hint="--max-n")
    if options["seed"] is None:
        campaign(run, "twins", twins_plan, **{name: options[name] for name in CAMPAIGN_OPTIONS})
    else:
        one_world(run, twins_plan, **{name: options[name] for name in WORLD_OPTIONS})
