"""Agents: the protocol that one fulfils (protocol.py), the kinds built in, and the agents file that names them."""
