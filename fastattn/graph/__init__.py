# SPDX-License-Identifier: MIT
"""Models as graphs: a family's page asks for weights and records steps, and what it leaves is run by one program in C.

``graph`` is what a page gets, ``source`` and ``packed`` are who answers it, ``plan`` says where values lie, ``program``
hands all of it to C.
"""
