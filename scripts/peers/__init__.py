"""Other servers beside the agent: the same frames, the same model, the same load, one table.

`scripts/bench --peers --package MODEL` installs each into a throw-away environment, which needs the
package index, and measures it alone. What each runs with lies in a folder of its name here, so that
someone who knows it better can object: requirements, configuration, and the code that calls the
work on a frame, `predictor`. No part of the package: a device never has it.
"""
