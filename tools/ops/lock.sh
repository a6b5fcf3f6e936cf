#!/bin/sh
# Rewrites the lock files from pyproject.toml. libp2p 0.8.1 names fastecdsa 2.3.2, which has no wheel for CPython 3.11;
# 3.0.1 has one and is taken instead (a test starts libp2p with it), so no compiler is needed.
set -eu
cd "$(dirname "$0")/../.."
override=$(mktemp)
echo "fastecdsa==3.0.1" > "$override"
compile="uv pip compile --override $override --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-header --quiet"
{ echo "# Everything a node, an explorer and a gateway need. Made by \`make lock\`; installed with hashes, without resolution."
  $compile pyproject.toml; } > requirements.lock.new
{ echo "# requirements.lock and what tests, lint and type checks need. Made by \`make lock\`."
  $compile pyproject.toml --extra dev --constraint requirements.lock.new; } > requirements-dev.lock.new
{ echo "# What builds the two source-only packages of the lock (python-baseconv, varint). Made by \`make lock\`."
  printf 'setuptools\nwheel\n' | $compile -; } > requirements-build.lock.new
{ echo "# What Hugging Face folders need beside requirements.lock and torch (\`make huggingface\`). Made by \`make lock\`."
  echo "transformers==5.23.0" | $compile - --constraint requirements-dev.lock.new; } > requirements-models.lock.new
for file in requirements requirements-dev requirements-build requirements-models; do mv "$file.lock.new" "$file.lock"; done
rm -f "$override"
