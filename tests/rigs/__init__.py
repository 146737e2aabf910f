"""Rigs that disturb runs of the command line and judge what is left. ``SECURITY.md`` has the figures of their long runs.

    python -m tests.rigs.kills  --kills 40 --seed 1            SIGKILL at random moments, each job in turn
    python -m tests.rigs.faults --seed 1 [--sample 40]         each system call in turn fails once

``jobs`` makes the inputs, ``child`` runs a command in a forked process, ``judge`` says what came of it, ``inject`` lets calls
fail.
"""
