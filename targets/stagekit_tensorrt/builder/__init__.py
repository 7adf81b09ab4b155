"""Builds engines with TensorRT 10, TensorRT 11 or TensorRT-RTX; needs Python's own library and the vendor's alone.

::

    python -m builder KIT/stage1.request.json          # in a kit; or several, or a folder

stagekit runs this package as a process of its own, where ``--serve BUILDER`` takes the paths of requests from standard
input; a kit for people who build elsewhere holds a copy of it.
"""
