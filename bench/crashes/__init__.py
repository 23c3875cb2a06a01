"""Crashes: processes that are killed, and machines that lose power.

Processes are real (`kills`). A power loss is replayed, after ALICE (OSDI 2014) and CrashMonkey (OSDI 2018): strace
records what a real process asks of the kernel (`strace`), `disk` makes of that what each call changes and what each
sync promises, `states` what a disk may hold after a crash, and the real store, node and tracker start on that
(`store_check`, `tracker_check`).
"""
