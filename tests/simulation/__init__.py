"""Deterministic simulation: the product's engine, handlers, guards and tables in virtual time, over a model of the broker.

In: a seed. Out: what it broke. Each worker has an event loop of its own that only the world steps, so that it can be frozen and
killed between any two steps; requests are delayed, lost and held up; everything random comes from the seed. An hour of workers
takes about a minute, and the same seed gives the same run.

- `world`, `loop`: virtual time. `network`, `broker`, `group`: what is modelled. `consumer`, `committer`: clients of the model.
- `worker`: THE file that puts the product together. `node`: the process it runs in. `transport`: its calls of agents.
- `deployments`: how workers are set. `kinds`: tasks of other types than `agent`.
- `surroundings`: what all nodes share. `leftovers`: what a worker must not hold when there is nothing to do.
- `agents`, `traffic`, `faults`: who calls whom, and what goes wrong.
- `scenario`: one run. `oracles`: what must hold. `durability`: what a crash may forget. `shrink`: the fewest faults for it.
- `options`: named profiles. `holes`: seeds that found something, by hole. `cli`: the command, `python -m tests.simulation -h`.
"""
