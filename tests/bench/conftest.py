"""The benchmark's own files import each other by their bare names, as its scripts do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
