"""What the slow tests of jobs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.prepared import Prepared


@pytest.fixture(scope="session")
def prepared() -> Iterator[Prepared]:
    """An interpreter that forks a child for each command; the children know the password of the test server's users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMERO_PASSWORD", "secret")
        prepared = Prepared().__enter__()
    try:
        yield prepared
    finally:
        prepared.__exit__(None, None, None)
