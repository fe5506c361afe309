from __future__ import annotations

from typing import Iterator, Tuple

import pytest

from tests.benchmark_peers.kserve_server import Servicer, serving


@pytest.fixture
def server() -> Iterator[Tuple[Servicer, str]]:
    servicer = Servicer()
    with serving(servicer) as address:
        yield servicer, address
