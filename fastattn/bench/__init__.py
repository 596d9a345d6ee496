# SPDX-License-Identifier: MIT
"""What ``fastattn bench`` runs: shape tables, the machine's limits, interleaved timing, and other libraries.

Every figure is relative to something measured in the same rounds: a round takes one sample of each contestant, the
probes of the machine's limits among them, in an order that rotates; shares and ratios are medians of those of the
rounds.
"""
