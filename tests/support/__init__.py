# SPDX-License-Identifier: MIT
"""What tests share: inputs, comparisons with the oracle and between variants, a DLPack producer, a layer checker."""
