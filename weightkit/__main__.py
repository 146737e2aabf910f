"""``python -m weightkit`` is ``weightkit``."""

from weightkit.cli import main

if __name__ == "__main__":
    main(prog_name="weightkit")
