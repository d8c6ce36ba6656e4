"""The app from a clone: ``make app``, or ``python app.py --help``."""

from cmlab.app.page import main

if __name__ == "__main__":
    main()
