"""The commands: ``callboard`` (cli.py), and the shell scripts serve, test and check of a clone."""
