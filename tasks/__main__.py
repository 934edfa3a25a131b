"""Run the program `focallm` as `python -m focallm.tasks`, for launchers that need a module."""

from .cli.commands import main

if __name__ == "__main__":
    main()
