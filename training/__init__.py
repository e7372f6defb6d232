"""QLoRA fine-tuning of signed snapshots: preflight, SFT, DPO, evaluation and cards."""
