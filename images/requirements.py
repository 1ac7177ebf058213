"""Print the requirements of one extra of a pyproject.toml, one a line."""

import sys
import tomllib
from pathlib import Path

path, extra = sys.argv[1:]
project = tomllib.loads(Path(path).read_text())["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"][extra]]:
    sys.stdout.write(f"{requirement}\n")
