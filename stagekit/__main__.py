"""``python -m stagekit``."""

from stagekit.cli import main

main()
