#!/bin/bash
# The comparison: representations x strategies on SmolLM2-135M, from one config file, a row at a time. What is done is kept
# and not done again; the table and the plot under out/comparison are written anew after every row.
#
#   scripts/comparison.sh                          all of scripts/comparison.json
#   scripts/comparison.sh --only REGEX             rows whose names match, e.g. 'aqlm 2'
#   scripts/comparison.sh --rows FILE              goes on with the rows of another run's comparison.json
#   scripts/comparison.sh --config FILE --out DIR  another matrix
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,8s/^# \{0,1\}//p' scripts/comparison.sh
    exit 0
fi

INPUTS=out/comparison/inputs
CACHE=build/cache
PYTHON=build/venv/bin/python
GGUF=$CACHE/SmolLM2-135M-Instruct.gguf
source scripts/lib/book.sh

mkdir -p "$INPUTS" "$CACHE"
if [[ ! -f $INPUTS/model.h5 ]]; then
    "$PYTHON" scripts/demo_model.py --out "$GGUF"
    "$PYTHON" scripts/gguf_to_hf.py --from "$GGUF" --out "$INPUTS/hf"
    build/pvtune import --from "$INPUTS/hf" --out "$INPUTS/model.h5"
fi

# tokens NAME FILE: $INPUTS/NAME.h5 from a text file.
tokens() {
    [[ -f $INPUTS/$1.h5 ]] ||
        "$PYTHON" scripts/tokenize.py --tokenizer "$INPUTS/hf/tokenizer.json" --text "$2" --out "$INPUTS/$1.h5"
}
[[ -f $INPUTS/book.h5 ]] || get_book
if [[ ! -f $INPUTS/book.h5 ]]; then
    "$PYTHON" scripts/demo_text.py --folder "$CACHE/book" --tune "$INPUTS/book-tune.txt" --eval "$INPUTS/book.txt"
fi
tokens book "$INPUTS/book.txt"
if [[ -f ../shared/data/wikitext2-valid.txt && -f ../shared/data/wikitext2-test.txt ]]; then
    tokens tune ../shared/data/wikitext2-valid.txt
    tokens eval ../shared/data/wikitext2-test.txt
elif [[ ! -f $INPUTS/tune.h5 || ! -f $INPUTS/eval.h5 ]]; then
    echo "comparison: no WikiText-2 in ../shared/data: put token stores of your own into $INPUTS as tune.h5 and eval.h5" \
        "(scripts/tokenize.py), and name them in the config" >&2
    exit 2
fi
root=$PWD
cd "$here"  # where the flags' files are
exec "$root/$PYTHON" "$root/scripts/comparison.py" --inputs "$root/$INPUTS" "$@"
