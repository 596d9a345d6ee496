# SPDX-License-Identifier: MIT
"""Settings of the suite: hypothesis runs the same bounded set of examples everywhere, and says how to repeat one.

Tests stand in rooms that mirror the package: a folder for each of its folders, ``ops`` for what stands beside them,
``process`` for threads, forks and signals, ``project`` for the sources, the build and the documentation. Rooms are no
packages, so the base names of their files differ; what several rooms use is in ``support`` and ``golden``, which all
of them import by these names because this file's folder is on the path.
"""

from __future__ import annotations

import gc
import os
import signal

# A shell starts its background jobs with interrupts ignored, and nohup has hang-ups ignored; processes the tests start
# would never hear of either.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Read once, when NumPy is loaded: the oracle's products are small, and waiting for each other its threads take the
# processor from the tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import fastattn as fa  # noqa: E402


@pytest.fixture(autouse=True)
def _default_threads() -> Iterator[None]:
    """Commands that run in this process set the thread count for all of it."""
    yield
    fa.set_num_threads(None)


def pytest_collection_finish() -> None:
    """What was collected lives to the end: the collector of cycles need not walk through tens of thousands of tests
    each time that it runs, which would take longer than many of them."""
    gc.collect()
    gc.freeze()


settings.register_profile(
    "fastattn",
    derandomize=True,
    deadline=None,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fastattn")
