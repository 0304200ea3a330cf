"""``python -m anymask`` is the command ``anymask``."""

from anymask.cli.main import main

if __name__ == "__main__":
    main()
