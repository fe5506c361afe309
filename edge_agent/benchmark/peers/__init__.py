"""Other servers beside the agent: the same frames, the same model, the same load, one table.

`python -m edge_agent.benchmark.peers --package MODEL` installs each into a throw-away environment,
which needs the package index, and measures it alone. What it is given to run with lies in a folder
of its name here, so that whoever knows it better can object: requirements, configuration, and the
code that calls our work of a frame, `judge`.
"""
