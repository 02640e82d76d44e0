"""The Python front door: tables, arrays and clients in, result stores out, by the one path.

``hlmm_scan`` itself shows these functions, loaded as they are asked for. Nothing is printed; what
is told goes to the logger ``hlmm_scan``.
"""
