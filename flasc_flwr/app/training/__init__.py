"""Training and evaluation of adapters, in torch and PEFT."""

from flasc_flwr.app.optional import without

with without("bitsandbytes"):
    from peft import PeftModel

__all__ = ["PeftModel"]
