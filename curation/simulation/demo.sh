#!/usr/bin/env bash
# From a brief to an evaluated adapter, on this machine, with nothing but public commands.
#
#     bash demo.sh FOLDER          QUICK=1 for small counts
#
# No key, no GPU, no Docker. The teacher, the judge and the two reviewers are stand-ins and say so wherever they appear.
# Each command is printed before it runs, with a line on why. It may be interrupted and run again: every command goes on
# from where it stopped.
set -euo pipefail

demo=${1:?usage: demo.sh FOLDER}
mkdir -p "$demo"
demo=$(cd "$demo" && pwd)
here=$PWD
project=$demo/project argilla=$demo/argilla standin=$demo/standin
export SEEDCORN_CONFIG_DIR=$demo/config TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
if [[ -n ${QUICK:-} ]]; then instructions=130 pairs=48 epochs=0.5 dpo_epochs=0.5 items=24; else instructions=280 pairs=110 epochs=3 dpo_epochs=2 items=120; fi

short() { local text="$*"; text=${text//"$demo/"/}; echo "${text//"$here/"/}"; }

# run VERB WHY COMMAND...: print why and what, run it in the demo's folder, note how long it took
run() {
  local verb=$1 why=$2 start end code=0; shift 2
  printf '\n\033[1m# %s\033[0m\n$ %s\n' "$why" "$(short "$@")"
  start=$(date +%s.%N)
  (cd "$demo" && "$@") || code=$?
  end=$(date +%s.%N)
  printf '{"verb": "%s", "seconds": %.3f, "exit": %d}\n' "$verb" "$(echo "$end - $start" | bc -l 2>/dev/null || awk "BEGIN{print $end - $start}")" "$code" >>"$demo/steps.jsonl"
  return $code
}

stop() {
  curate standin stop "$project" >/dev/null 2>&1 || true
  argilla-setup down --home "$argilla" >/dev/null 2>&1 || true
}
trap stop EXIT
trap 'echo; echo "Stopped. Run the same command again to go on."; exit 130' INT TERM

latest() { ls -d "$project/snapshots/project-$1-v"* 2>/dev/null | sort -V | tail -n 1; }

echo "Seedcorn demo in $(short "$demo")${QUICK:+ (small counts)}. Nothing leaves this machine."
if [[ ! -f $demo/steps.jsonl ]]; then
  echo "First the review server's own environment is built (once, about a minute); then the clock starts."
  argilla-setup up --detach --home "$argilla" --port 0 >/dev/null && argilla-setup down --home "$argilla" >/dev/null
fi

run "argilla-setup up" "Start Argilla, where people review: a private server with generated passwords" \
  argilla-setup up --detach --home "$argilla"

if [[ ! -f $project/project.yaml ]]; then
  run "curate init" "A project on the real ICD-10-CM tables: brief, plan, gates and a protected evaluation set" \
    curate init "$project" --template icd10 --offline --instruction $instructions --preference $pairs \
    --argilla ../argilla --annotator simulated-reviewer-1 --annotator simulated-reviewer-2
fi
run "curate standin start" "The offline stand-in takes the place of teacher and judge; its flaws are planted on purpose" \
  curate standin start "$project" --log "$standin"
run "curate plan" "Lay out what to write: codes, tasks, difficulty, persona" curate plan "$project"
run "curate import" "Bring in the worked examples that already exist" \
  curate import "$project" "$project/seeds.jsonl" --format alpaca --source icd10-examples --license CC0-1.0 --written-by people
run "curate generate" "The teacher writes; every answer is on disk before anything reads it" curate generate "$project"
run "curate score" "The judge scores each row by the rubric, and each pair in both orders" curate score "$project"
run "curate dedup" "Copies, near copies and rewordings go; the twin stands beside each" curate dedup "$project"
run "curate screen" "Rows too close to the evaluation set go, and rows whose code does not check" curate screen "$project"
for name in simulated-reviewer-1 simulated-reviewer-2; do
  run "argilla-setup users" "An annotator's account (a simulated one, and named so)" argilla-setup users add $name --workspace project --home "$argilla"
done
run "curate push" "What is left goes to Argilla; judge scores are hidden from annotators" curate push "$project"
for name in simulated-reviewer-1 simulated-reviewer-2; do
  run "curate standin review" "A simulated reviewer answers over Argilla's own API, with errors at stated rates" \
    curate standin review "$project" --name $name --log "$standin"
done
run "curate pull" "Bring the answers back; only what both approve counts, and every edit becomes a row of its own" curate pull "$project"
run "curate push" "The edited rows go back for a second pair of eyes" curate push "$project"
for name in simulated-reviewer-1 simulated-reviewer-2; do
  run "curate standin review" "The second round" curate standin review "$project" --name $name --log "$standin"
done
run "curate pull" "And back again" curate pull "$project"
for kind in instruction preference; do
  run "curate snapshot" "Freeze the approved $kind rows, after one last pass of the gates" curate snapshot "$project" --kind $kind
  run "curate sign" "Sign it with your own key, made on first use" curate sign "$(latest $kind)"
  run "curate verify" "Anyone with your public key can check it" curate verify "$(latest $kind)" --key "$demo/config/keys/signing.pub" --deep
done
run "curate export" "The same rows for people who train elsewhere" \
  curate export "$(latest instruction)" --format alpaca --out "$demo/train.alpaca.jsonl" --key "$demo/config/keys/signing.pub"
run "curate report" "One page that tells what was dropped and why, and what it cost" curate report "$project"

run "train prepare-model" "A real small base model, SmolLM2-135M-Instruct, from its package" train prepare-model "$demo/model"
run "train init" "The two run files: SFT first, then DPO, never both in one run" \
  train init "$project/runs" --project "$project" --model "$demo/model" --key "$demo/config/keys/signing.pub" --epochs $epochs --dpo-epochs $dpo_epochs --items $items --allow-simulated-review
run "train preflight" "Check snapshot, signature, licence, memory and evaluation set before a step is taken" train preflight "$project/runs/sft.yaml"
run "train sft" "QLoRA on the approved examples; stops when the validation loss stops falling" train sft "$project/runs/sft.yaml"
run "train eval" "The base model on the held-out phrases" train eval "$project/runs/sft.yaml" --base
run "train eval" "The tuned one on the same phrases" train eval "$project/runs/sft.yaml"
run "train preflight" "The same checks for DPO" train preflight "$project/runs/dpo.yaml"
run "train dpo" "DPO from the SFT adapter, with the SFT policy as the reference" train dpo "$project/runs/dpo.yaml"
run "train eval" "And once more" train eval "$project/runs/dpo.yaml"
run "train trace" "From the adapter back to the snapshot it learnt from" train trace "$project/runs/dpo"
row=$(python -c 'import json,sys; print(json.loads(open(sys.argv[1]).readline())["id"])' "$demo/train.alpaca.jsonl")
run "curate trace" "And from one of its rows back to the teacher's request" curate trace "$project" "$row"
run "curate status" "Where the project stands" curate status "$project"

printf '\n\033[1m# What was planted beside what was caught; this alone opens the stand-in'\''s log\033[0m\n'
python -m curation.simulation.scorecard "$demo"
cat <<TXT

Everything is in $(short "$demo"): summary.json, project/report.html (open it), project/snapshots, project/runs.
Review by hand:   argilla-setup up --home $(short "$argilla")
                  log in as owner; the password is in $(short "$argilla")/secrets.json
                  (annotators' passwords: $(short "$argilla")/users/*.json)
Your own project: curate init my-project --template blank, write the brief, export ANTHROPIC_API_KEY=…, curate run my-project
(the commands are in $(short "$(dirname "$(command -v curate)")"))
TXT
