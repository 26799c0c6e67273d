"""The commands: `callboard`, and the shell scripts serve, test and check of a clone.

bootstrap   makes `.venv` and runs a command in it, for the shell scripts (python.sh)
cli         where `callboard` begins
commands    its subcommands, of which these have more to them:

chat        a conversation in the terminal: chat_terminal, chat_connection, chat_render (pure)
tokens      credentials, for trials
admin       what operators look at and do
load_test   many conversations, every frame checked: load
bench       how fast the parts are, beside others
chaos       real faults on real processes; simulation: the actors under a seeded scheduler
callboard   the client for Python, which others import by that name
ops         deployment files
"""
