"""What a plain `pip install .` brings along: the packages, their sizes, and how long it takes."""

import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from benchmarks.timing import header, table

ROOT = Path(__file__).parent.parent
SIZES = """
import importlib.metadata, json
found = []
for dist in importlib.metadata.distributions():
    files = [file for file in dist.files or [] if file.locate().exists()]
    found.append((dist.name, dist.version, sum(file.locate().stat().st_size for file in files)))
print(json.dumps(found))
"""


def main() -> None:
    print(header("benchmarks.install"))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        began = time.perf_counter()
        subprocess.run([python, "-m", "pip", "install", "-q", str(ROOT)], check=True, stdout=sys.stderr)
        spent = time.perf_counter() - began
        listed = subprocess.run([python, "-c", SIZES], check=True, capture_output=True, text=True).stdout
    found = sorted((row for row in json.loads(listed) if row[0] not in {"pip", "setuptools"}), key=lambda row: -row[2])
    rows = [(name, version, f"{size / 2**20:.1f}") for name, version, size in found]
    whole = sum(size for *_, size in found) / 2**20
    table(f"pip install of {len(found)} packages, {whole:.0f} MB, in {spent:.0f} s", ("package", "version", "MB"), rows)


if __name__ == "__main__":
    main()
