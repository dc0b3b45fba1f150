"""Runs the tests: `python3 python/tests`. The last line counts, as that of the other tests does."""

import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

suite = unittest.defaultTestLoader.discover(str(HERE), top_level_dir=str(HERE))
result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
print(f"{result.testsRun - failed} passed, {failed} failed")
# No tests at all is no success.
sys.exit(failed > 0 or result.testsRun == 0)
