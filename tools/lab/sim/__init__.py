"""The simulator: whole nodes (the real engine, core, signer and chain) in a virtual world where one seed is one run.

    clock      virtual time and the order of all that happens
    network    who hears whom, when, and what is lost on the way
    disk       a store that loses what was not synced
    keys       signatures that cost a microsecond
    counter    the smallest state machine
    rules      what nodes run: the real rules over a small state, or the counter
    plan       what a world is made of, drawn from a seed; each kind of trouble can be switched off
    behaviour  what an actor may do differently; `actors` speak otherwise than the rules say, `attackers` do worse
    traffic    users with transactions, and a root that changes the authority set
    node       a shell: performs the engine's effects in the world; `peering` is its way to the others
    world      the whole, from a seed; `checks` are what must hold in it
    twins      worlds in which faulty authorities run twice
    campaign   many worlds on several processes, and the shrinking of what fails
    stage      a world without chance, for directed scenarios; `player` is its node, `scenarios` are what it plays
"""
