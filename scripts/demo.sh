#!/bin/bash
# The demo: SmolLM2-135M-Instruct to 2 bits, then PV-tuned. The report lies in out/demo/report.md afterwards.
#
#   scripts/demo.sh                 tune and evaluate on ../shared/data where it is, else on a book of a Debian package
#   scripts/demo.sh --text FILE     tune on the first four fifths of FILE, evaluate on the rest
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What the demo runs with; all else is the program's default.
QUANTIZE_FLAGS=(--representation aqlm --codebooks 2 --code-bits 8 --group 8 --ctx 1024 --block-epochs 1 --rounds 2 --precision bf16)
CALIBRATION_SEQUENCES=24
TUNE_FLAGS=(--strategy pv-ste --steps 20 --batch 2 --ctx 1024 --lr 1e-3 --code-lr 3e-2 --precision bf16 --checkpoint-every 0)
EVAL_FLAGS=(--ctx 1024 --precision bf16)
EVAL_WINDOWS=40
GENERATE_FLAGS=(--prompt "The history of the city began in")
OUT=out/demo
CACHE=build/cache
PYTHON=build/venv/bin/python
source scripts/lib/book.sh
GGUF=$CACHE/SmolLM2-135M-Instruct.gguf

die() { echo "demo: $*" >&2; exit 2; }

text=
while (($#)); do
    case $1 in
        --text)
            (($# > 1)) || die "--text needs a file"
            text=$2
            [[ $text == /* ]] || text=$here/$text
            [[ -f $text && -r $text ]] || die "$2: no such file"
            shift 2 ;;
        -h | --help)
            sed -n '2,5s/^# \{0,1\}//p' scripts/demo.sh
            exit 0 ;;
        *) die "unknown argument '$1' (known: --text FILE)" ;;
    esac
done

get_text() {
    if [[ -n $text ]]; then
        "$PYTHON" scripts/demo_text.py --file "$text" --tune "$OUT/tune.txt" --eval "$OUT/eval.txt"
    elif [[ -f ../shared/data/wikitext2-valid.txt && -f ../shared/data/wikitext2-test.txt ]]; then
        cat ../shared/data/wikitext2-valid.txt >"$OUT/tune.txt"
        cat ../shared/data/wikitext2-test.txt >"$OUT/eval.txt"
        echo "WikiText-2 from ../shared/data"
    else
        get_book
        "$PYTHON" scripts/demo_text.py --folder "$CACHE/book" --tune "$OUT/tune.txt" --eval "$OUT/eval.txt"
    fi
}

# The phases run under demo_phase.py as commands of their own; this one is a function, so it is run by this script again.
if [[ ${PVTUNE_DEMO_STEP:-} == text ]]; then
    text=${PVTUNE_DEMO_TEXT:-}
    get_text
    exit
fi

mkdir -p "$OUT" "$CACHE"
rm -rf "$OUT/phases"
mkdir "$OUT/phases"
rm -f "$OUT/report.json" "$OUT/report.md"
phases=20  # calls of `phase` below
count=0

# phase NAME WORDS COMMAND...: runs a phase, times it and stops the demo when it fails.
phase() {
    local name=$1 words=$2 status=0 record
    shift 2
    count=$((count + 1))
    record=$(printf '%s/phases/%02d-%s.json' "$OUT" "$count" "$name")
    printf '\n[%d/%d, %d:%02d] %s\n' "$count" "$phases" $((SECONDS / 60)) $((SECONDS % 60)) "$words" >&2
    python3 scripts/demo_phase.py --out "$record" -- "$@" || status=$?
    ((status == 0)) || { echo "demo: stopped in phase '$name' (exit status $status): $words" >&2; exit "$status"; }
}

if [[ -n $text ]]; then
    text_words="$text, tuned on its first four fifths, evaluated on the rest"
elif [[ -f ../shared/data/wikitext2-valid.txt && -f ../shared/data/wikitext2-test.txt ]]; then
    text_words="tuned on WikiText-2 valid, evaluated on WikiText-2 test (../shared/data)"
else
    text_words=$BOOK_TITLE
fi
tokenizer=$OUT/hf/tokenizer.json

phase setup "set-up: packages and Python environment" make --no-print-directory setup
phase build "build of build/pvtune" make --no-print-directory build
phase model "the model: SmolLM2-135M-Instruct" "$PYTHON" scripts/demo_model.py --out "$GGUF"
phase gguf "GGUF to a Hugging Face folder" "$PYTHON" scripts/gguf_to_hf.py --from "$GGUF" --out "$OUT/hf"
phase import "import" build/pvtune import --from "$OUT/hf" --out "$OUT/model.h5" --json
phase text "text: $text_words" env PVTUNE_DEMO_STEP=text PVTUNE_DEMO_TEXT="$text" scripts/demo.sh
phase tokenize-tune "tokens to tune on" \
    "$PYTHON" scripts/tokenize.py --tokenizer "$tokenizer" --text "$OUT/tune.txt" --out "$OUT/tune.h5" --json
phase tokenize-eval "tokens to evaluate on" \
    "$PYTHON" scripts/tokenize.py --tokenizer "$tokenizer" --text "$OUT/eval.txt" --out "$OUT/eval.h5" --json

# windows_of PHASE MOST WORDS: a short text has fewer windows of 1024 tokens than the demo would like.
windows_of() {
    local tokens
    tokens=$("$PYTHON" -c 'import glob, json, sys; print(json.load(open(glob.glob(sys.argv[1])[0]))["result"]["tokens"])' \
        "$OUT/phases/*-$1.json")
    ((tokens >= 1024)) || die "the text to $3 has $tokens tokens, at least 1024 are needed: use a longer text"
    echo $((tokens / 1024 < $2 ? tokens / 1024 : $2))
}
windows=$(windows_of tokenize-eval "$EVAL_WINDOWS" "evaluate on")
sequences=$(windows_of tokenize-tune "$CALIBRATION_SEQUENCES" "tune on")
evaluate=(build/pvtune eval --tokens "$OUT/eval.h5" "${EVAL_FLAGS[@]}" --windows "$windows" --json)
generate=(build/pvtune generate --tokenizer "$tokenizer" "${GENERATE_FLAGS[@]}")

phase inspect-dense "what the unquantised file holds" build/pvtune inspect "$OUT/model.h5" --json
phase eval-dense "perplexity of the unquantised model" "${evaluate[@]}" --model "$OUT/model.h5"
phase quantize "quantise to 2 bits, block by block" \
    build/pvtune quantize --model "$OUT/model.h5" --calibrate "$OUT/tune.h5" --sequences "$sequences" \
    "${QUANTIZE_FLAGS[@]}" --log "$OUT/quantize.jsonl" --out "$OUT/quantized.h5" --json
phase inspect-quantized "what the quantised file holds" build/pvtune inspect "$OUT/quantized.h5" --json
phase eval-quantized "perplexity of the quantised model" "${evaluate[@]}" --model "$OUT/quantized.h5"
phase generate-quantized "a sample before tuning" "${generate[@]}" --model "$OUT/quantized.h5"
rm -f "$OUT/run.jsonl"
phase tune "PV-tuning" build/pvtune tune --model "$OUT/quantized.h5" --teacher "$OUT/model.h5" \
    --tokens "$OUT/tune.h5" "${TUNE_FLAGS[@]}" --log "$OUT/run.jsonl" --out "$OUT/tuned.h5" --json
phase inspect-tuned "what the tuned file holds" build/pvtune inspect "$OUT/tuned.h5" --json
phase eval-tuned "perplexity of the tuned model" "${evaluate[@]}" --model "$OUT/tuned.h5"
phase generate-tuned "a sample after tuning" "${generate[@]}" --model "$OUT/tuned.h5"
phase plots "curves" "$PYTHON" scripts/plot.py "$OUT/run.jsonl" --out "$OUT"
phase page "a page of the run" "$PYTHON" scripts/run_page.py "$OUT/quantize.jsonl" "$OUT/run.jsonl" \
    --weights "$OUT/tuned.h5" --title "SmolLM2-135M, quantised and PV-tuned" --out "$OUT/run.html"

echo >&2
"$PYTHON" scripts/demo_report.py --phases "$OUT/phases" --out "$OUT" --text "$text_words" \
    --setting quantisation "${QUANTIZE_FLAGS[*]} --sequences $sequences" --setting tuning "${TUNE_FLAGS[*]}" \
    --setting evaluation "${EVAL_FLAGS[*]} --windows $windows"
