"""Rigs that disturb runs of the command line and judge what is left. ``SECURITY.md`` has the figures of their long runs.

    python -m tests.rigs.kills  --kills 40 --seed 1            SIGKILL at random moments, each job in turn
    python -m tests.rigs.faults --seed 1 [--sample 40]         each system call in turn fails once
    python -m tests.rigs.limits --seed 1 [--trials quota]      the system, the user or another run gets in the way
    python -m tests.rigs.order                                 what a power cut may not overtake, by the order of calls
    python -m tests.rigs.broken --seed 1                       the product broken on purpose: each rig must find it

``jobs`` makes the inputs, ``child`` runs a command in a forked process, ``judge`` says what came of it, ``inject`` lets calls
fail, and writes them down.
"""
