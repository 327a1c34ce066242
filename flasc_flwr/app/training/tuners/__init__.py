"""Tuners of PEFT other than LoRA, from a PEFT config."""
