"""Others beside ours, in one table: servers under the same load, trainers on the same images.

`scripts/bench --peers --package MODEL` installs each server into a throw-away environment, which
needs the package index, and measures it alone; `scripts/auroc --anomalib` keeps its environment.
What each runs with lies in a folder of its name here, so that someone who knows it better can
object: requirements, configuration, and the code that calls the work on a frame, `predictor`. No
part of the package: a device never has it.
"""
