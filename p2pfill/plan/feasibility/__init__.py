"""Whether the network carries a placement within the windows, what is in the way, and what would help."""
