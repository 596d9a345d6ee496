# SPDX-License-Identifier: MIT
"""Who makes batches: inputs are packed, cut into groups or steps, and run through a model's program.

What a model computes is its graph's matter; how many rows go through it together changes no bit of a result.
"""
