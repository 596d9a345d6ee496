# SPDX-License-Identifier: MIT
"""Families of models, a page each: ``build(g)`` asks for weights by their roles and records what is done with them.

To add one, write its page and name it in ``registry.FAMILIES``.
"""
