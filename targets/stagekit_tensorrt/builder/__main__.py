"""The command; see the package."""

from __future__ import annotations

import sys

from .processes import main, with_settled_memory

if __name__ == "__main__":
    with_settled_memory()
    sys.exit(main(sys.argv[1:]))
