# SPDX-License-Identifier: MIT
"""Settings of the suite: hypothesis runs the same bounded set of examples everywhere, and says how to repeat one."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fastattn",
    derandomize=True,
    deadline=None,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fastattn")
