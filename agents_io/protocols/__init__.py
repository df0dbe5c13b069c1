"""Ways to call agents: a folder each, with its transport, its rules for what goes over the wire, and a scripted agent for tests.

What a worker knows by protocol stands in the modules here: `registrations.py` (what it takes of a registration), `makers.py`
(who calls its agents) and `discovery.py` (how it is recognised at an address).
"""
