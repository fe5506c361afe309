"""`python -m edge_agent.benchmark.peers`."""

from __future__ import annotations

import argparse
import sys

from edge_agent.benchmark.peers.peers_command import add_arguments, run

if __name__ == "__main__":  # clients are spawned processes, which import this module again
    parser = argparse.ArgumentParser(prog="edge_agent.benchmark.peers", description=__doc__)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
