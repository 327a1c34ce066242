import os

# Before anything reads them: no test uses a hub, telemetry, or a check for updates.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
# The models are tiny: more threads are slower, most of all beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
