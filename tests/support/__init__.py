# SPDX-License-Identifier: MIT
"""What the tests share: inputs, comparisons with the oracle and between variants, a DLPack producer, the layer checker."""
