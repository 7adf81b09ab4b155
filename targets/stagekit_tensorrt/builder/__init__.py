"""Builds engines with TensorRT 10, TensorRT 11 or TensorRT-RTX; needs Python 3.10 and the vendor's package alone.

::

    python -m builder .                        # every *.request.json of a folder
    python -m builder stage1.request.json      # one, or several

Beside each ``NAME.request.json`` it writes ``NAME.plan``, the engine, and ``NAME.result.json``, who built it from what.
Exit code 0 all built, 1 some refused (their lines begin with FAILED), 2 wrong arguments, 3 no TensorRT here.

stagekit runs this package as a process of its own, where ``--serve BUILDER`` takes the paths of requests from standard
input; a kit for people who build elsewhere holds a copy of it.
"""
