#!/usr/bin/env bash
# Prints a folder that holds CIFAR-10's binary files, or the word 'synthetic'; what it says goes to stderr.
# Looks in $CIFAR10_DIR, then in data/, then downloads into data/ from the data set's own page.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "cifar10: $*" >&2; }

find_batches() {  # the folder itself, or the one that the archive unpacks to
  local dir
  for dir in "$1" "$1/cifar-10-batches-bin"; do
    if [ -f "$dir/data_batch_1.bin" ] && [ -f "$dir/test_batch.bin" ]; then
      echo "$dir"
      return 0
    fi
  done
  return 1
}

download() {
  python3 - <<'PYTHON'
import hashlib, http.client, os, sys, tarfile, urllib.request

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
archive = "data/cifar-10-binary.tar.gz"

os.makedirs("data", exist_ok=True)
try:
    digest = hashlib.md5()
    with urllib.request.urlopen(URL, timeout=10) as page, open(archive, "wb") as file:
        while block := page.read(1 << 20):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != MD5:
        sys.exit(f"cifar10: the download has md5 {digest.hexdigest()}, not {MD5}; dropped.")
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            if member.isfile() and member.name.startswith("cifar-10-batches-bin/") and ".." not in member.name:
                files.extract(member, "data")
except (OSError, http.client.HTTPException, tarfile.TarError) as error:
    sys.exit(f"cifar10: no download ({error}).")
finally:
    if os.path.exists(archive):
        os.remove(archive)
PYTHON
}

if [ -n "${CIFAR10_DIR:-}" ]; then
  find_batches "$CIFAR10_DIR" && exit 0
  say "CIFAR10_DIR is '$CIFAR10_DIR', but there is no data_batch_1.bin and test_batch.bin in it."
  exit 1
fi
find_batches data && exit 0
say "not in data/, and CIFAR10_DIR is not set: downloading (170 MB)."
if download && find_batches data; then
  exit 0
fi
say "training on SYNTHETIC images: the accuracy says nothing about CIFAR-10."
echo synthetic
