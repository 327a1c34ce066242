"""Training and evaluation of adapters, in torch and PEFT."""
