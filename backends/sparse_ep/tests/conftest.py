"""What every test of the provider needs: the provider itself, registered once."""

from __future__ import annotations

import onnxruntime_ep_sparse
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, wherever the tests are started from."""
    config.addinivalue_line("markers", "slow: thousands of cases; `make test` leaves them out")


@pytest.fixture(scope="session", autouse=True)
def provider() -> str:
    """The name of the provider, which is registered with ONNX Runtime."""
    onnxruntime_ep_sparse.register()
    return onnxruntime_ep_sparse.get_ep_name()
