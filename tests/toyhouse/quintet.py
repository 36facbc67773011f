"""The command `quintet` in a house with one more room: the toy app of the tests."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import apps  # noqa: E402
from apps.__main__ import main  # noqa: E402

apps.__path__.append(str(HERE))
apps.DOMAINS |= {"toy": "the app of the tests", "brackets": "brackets that always close"}

if __name__ == "__main__":
    main()
