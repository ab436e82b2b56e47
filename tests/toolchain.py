"""What the test scripts share: compilers that are here, builds two at a time, counting."""
import concurrent.futures
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build", "tests")
REQUIRED = os.environ.get("LLM_TESTS_REQUIRE", "") not in ("", "0")
C_COMPILERS, CXX_COMPILERS = ["gcc", "clang"], ["g++", "clang++"]
JOBS = 2


class Report:
    """Counts checks, says what failed, and ends with the line that tests/run.py adds up."""

    def __init__(self, name):
        self.name, self.passed, self.failed, self.skipped = name, 0, 0, 0

    def check(self, good, what):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAIL {self.name}: {what}", flush=True)
        return good

    def missing(self, what):
        """Something that this check needs is not here: skipped, or failed where all is required."""
        if REQUIRED:
            return self.check(False, f"{what} (required)")
        self.skipped += 1
        print(f"SKIP {self.name}: {what}", flush=True)
        return False

    def end(self):
        print(f"{self.name}: {self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        sys.exit(1 if self.failed else 0)


def have(names, report):
    """Those of the compilers that are installed."""
    found = [n for n in names if shutil.which(n)]
    for n in names:
        if n not in found:
            report.missing(f"{n} is not installed")
    return found


def run(command, timeout=600, **options):
    """(exit status, output) of a command; status None: it ran out of time or could not start."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=timeout, cwd=ROOT, **options)
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        return None, f"{late.stdout or ''}\nno end after {timeout} seconds"
    except OSError as error:
        return None, str(error)


def in_parallel(function, items):
    """[function(item)], two at a time, in order."""
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(function, items))
