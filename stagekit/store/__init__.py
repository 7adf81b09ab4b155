"""Engines on disk, found by what they were built from and never loaded without being checked.

A row of files, in the order in which data passes through them: ``key`` names an engine, ``layout`` says where
things lie, ``lock`` keeps two builders of one key apart, ``publish`` puts a built engine in place, ``record``
describes it, ``check`` compares it with its description, ``store`` is what others use, ``collect`` throws away.
"""

from stagekit.store.check import load_entry
from stagekit.store.collect import Collected
from stagekit.store.files import file_digest
from stagekit.store.key import EngineKey
from stagekit.store.layout import Entry
from stagekit.store.record import Damage
from stagekit.store.store import Store, Stored

__all__ = ["Collected", "Damage", "EngineKey", "Entry", "Store", "Stored", "file_digest", "load_entry"]
