"""The command; see the package."""

from __future__ import annotations

import sys

from .processes import main, with_fixed_addresses

if __name__ == "__main__":
    with_fixed_addresses()
    sys.exit(main(sys.argv[1:]))
