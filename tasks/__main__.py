"""`python -m focallm.tasks` is `focallm`, for launchers that want a module."""

from .cli.commands import main

if __name__ == "__main__":
    main()
