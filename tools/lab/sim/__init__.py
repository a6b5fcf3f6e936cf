"""The simulator: whole nodes (the real engine, core, signer and chain) in a virtual world where one seed is one run.

    clock      virtual time and the order of all that happens
    network    who hears whom, when, and what is lost on the way
    disk       a store that loses what was not synced
    keys       signatures that cost a microsecond
    counter    the smallest state machine
    actors     authorities that do not follow the rules
    node       a shell: performs the engine's effects in the world
    world      the whole, from a seed; and the checks
    stage      a world without chance, for directed scenarios; `player` is its node, `scenarios` are what it plays
"""
