#!/bin/bash
# Makes a folder that checks pvtune on another machine: programs, the libraries they need, the check itself.
# All but the driver and the C library is carried; cuBLASLt, which is large, only with CARRY_CUBLAS=1.
#
#   scripts/gpu_bundle.sh BUILD OUT    from the build folder (build/device) to the folder OUT, which is made anew
#   CARRY_CUBLAS=1                     carry cuBLASLt too
#   CARRY_DEMO=1                       carry the files of out/demo that the demo on the device needs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if (($# != 2)); then
    sed -n '2,7s/^# \{0,1\}//p' scripts/gpu_bundle.sh >&2
    exit 2
fi
build=$1 out=$2

# Of the C library, which belongs to the machine, and of the driver.
LEFT_OUT='^(ld-linux.*|libc|libm|libmvec|libdl|librt|libpthread|libresolv|libutil|libanl|libnsl|libcuda)\.so'
DEMO_FILES=(model.h5 quantized.h5 tune.h5 eval.h5)

die() { echo "gpu-bundle: $*" >&2; exit 2; }

rm -rf "$out"
mkdir -p "$out"/{bin,lib,baseline}
cp "$build/pvtune" "$build"/tests/cuda/*_test "$out/bin/"
strip "$out"/bin/*
cp scripts/gpu_check.py "$out/gpu-check"
cp scripts/lib/{errors,files,gpu_device,gpu_process,gpu_steps,gpu_training,llama_shapes}.py "$out/lib/"
cp scripts/baseline/{gpu_attention,llama,pv}.py "$out/baseline/"
cp scripts/{baseline_torch,random_model}.py "$out/"
# Here, as it takes Python's HDF5: 16 steps of 4 x 4096 tokens, of a vocabulary that any model has.
build/venv/bin/python scripts/random_model.py --config llama-2-7b --tokens $((64 * 4096)) --out "$out/training-tokens.h5"

# Lines `name => path`; ldd follows the libraries of libraries.
needed=$(for program in "$out"/bin/*; do LD_LIBRARY_PATH=${CUDA_HOME:+$CUDA_HOME/lib64} ldd "$program"; done |
    awk '$2 == "=>" {print $1, $3}' | sort -u)
cublas=
while read -r name path; do
    [[ $name =~ $LEFT_OUT ]] && continue
    [[ $path == /* ]] || die "$name is not on this machine"
    if [[ $name == libcublasLt.so.* ]]; then
        cublas=$name
        [[ ${CARRY_CUBLAS:-} == 1 ]] || continue
    fi
    cp -L "$path" "$out/lib/$name"
done <<<"$needed"
[[ -n $cublas ]] || die "$build/pvtune does not use cuBLASLt: it was not built with CUDA"

if [[ ${CARRY_DEMO:-} == 1 ]]; then
    mkdir "$out/data"
    for file in "${DEMO_FILES[@]}"; do
        [[ -f out/demo/$file ]] || die "out/demo/$file is not there: run \`make demo\` first"
        cp -l "out/demo/$file" "$out/data/" 2>/dev/null || cp "out/demo/$file" "$out/data/"
    done
fi

commit=unknown changed=null
if head=$(git rev-parse HEAD 2>/dev/null) && changes=$(git status --porcelain -uno 2>/dev/null); then
    commit=$head changed=$([[ -z $changes ]] && echo false || echo true)
fi
nvcc=$("${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version | sed -n 's/.*\(release [0-9.]*\).*/nvcc \1/p')
cat >"$out/manifest.json" <<END
{
  "commit": "$commit",
  "uncommitted_changes": $changed,
  "built": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "compiler": "$nvcc, g++ $(g++ -dumpfullversion)",
  "architectures": "${ARCHITECTURES:-}",
  "cublas": "$cublas"
}
END
tests=$(find "$out/bin" -name '*_test' | wc -l)
echo "$out: $(du -sh "$out" | cut -f1), $tests test programs; run ./gpu-check in it on a machine with a GPU" \
    "$([[ -f $out/lib/$cublas ]] || echo "and $cublas")"

# The programs hold much of the same, far apart: hence the large window. What else is carried does not shrink.
rm -f "$out.tar.xz"
if [[ ${CARRY_CUBLAS:-} != 1 && ${CARRY_DEMO:-} != 1 ]] && command -v xz >/dev/null; then
    tar -C "$(dirname "$out")" -cf - "$(basename "$out")" | xz --lzma2=preset=1,dict=192MiB >"$out.tar.xz"
    echo "$out.tar.xz: $(du -h "$out.tar.xz" | cut -f1)"
fi
