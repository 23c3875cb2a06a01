"""Whole fleets in virtual time: the fill logic and the protocol as they are, over a model of their network."""
