"""For this folder: `tiny` is importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # under pytest's importlib mode a test's own folder is not on the path
