"""Fuzzers of every parser that somebody else's bytes can reach: `python -m bench.fuzz`, or `make fuzz`.

A target (`target.Target`) is a parser, the invariant that it must keep, and inputs to begin with. The invariant is more
than that nothing but the documented error is raised: what was taken is within its limits, and comes out the same where
it is written and read again. The targets lie in a module for each part of the program, and `targets.TARGETS` has all.

atheris (libFuzzer) runs a target in a process of its own (`worker`), led by the branches that its inputs reach, and
bounds time and memory of each input. Where a format nests, every other input is changed by its parts and not by its
bytes (`mutation`), or nearly all of them would be refused at the first byte.

Inputs to begin with are made by the project's own encoders, when a target is opened. `corpus/` has what earlier runs
found besides: inputs that reach branches that those do not, and each one that has ever broken something. The tests run
all of them through all targets, and hypothesis changes them further (`tests/fuzz`).
"""
