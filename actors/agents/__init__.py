"""Agents: the protocol that one fulfils, the kinds built in, and the agents file that names them.

    agents_file ──> options, toml_lines (what is wrong, and where)
        └──> the kinds: echo, eliza, metronome, openai, python ──> registry ──> a session's turn
                            └── memory (their checkpoints), pacing (when tokens leave)

`protocol` is all that an agent of one's own needs to know; `check` asks an agent something, to see whether it answers.
"""
