"""Protocols to call agents by: one folder each, with its transport, its rules for the wire, and a scripted agent for
tests.

What a worker knows by protocol is in the modules here: `registrations.py` (what it accepts in a registration),
`makers.py` (which transport calls its agents) and `discovery.py` (how it is recognised at an address).
"""
