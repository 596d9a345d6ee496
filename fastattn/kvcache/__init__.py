# SPDX-License-Identifier: MIT
"""Keys and values kept between calls: KVCache in one piece per layer or as a ring, PagedKVCache in shared pages."""

from fastattn.kvcache.cache import KVCache
from fastattn.kvcache.checks import CacheFull
from fastattn.kvcache.paged import PagedKVCache

__all__ = ["CacheFull", "KVCache", "PagedKVCache"]
