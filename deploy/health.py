#!/usr/bin/env python3
"""Whether a process of Flower answers: flower-health ADDRESS [CA-CERTIFICATE].

ADDRESS is an http or https address of a SuperLink or SuperNode, or grpc://HOST:PORT, as
set by --health-server-address of a SuperExec. Exits with 1 if it does not answer.
"""

import ssl
import sys
from urllib.request import urlopen

_SECONDS = 5


def answers(address: str, certificate: str | None = None) -> bool:
    """Ask once."""
    if address.startswith("grpc://"):
        import grpc
        from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
        from grpc_health.v1.health_pb2_grpc import HealthStub

        with grpc.insecure_channel(address.removeprefix("grpc://")) as channel:
            reply = HealthStub(channel).Check(HealthCheckRequest(), timeout=_SECONDS)
        return bool(reply.status == HealthCheckResponse.SERVING)
    secure = address.startswith("https://")
    context = ssl.create_default_context(cafile=certificate) if secure else None
    with urlopen(address, timeout=_SECONDS, context=context) as reply:
        return bool(reply.status == 200)


if __name__ == "__main__":
    try:
        sys.exit(not answers(*sys.argv[1:]))
    except Exception as error:
        sys.exit(f"{sys.argv[1]} does not answer: {error}")
