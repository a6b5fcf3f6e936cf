"""Hostile inputs for every decoder: how they are made, what they are given to, and what must hold (`quorix lab fuzz`)."""
