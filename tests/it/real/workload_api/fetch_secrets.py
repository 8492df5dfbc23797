"""Asks SDS once for each name given, by grpcio without generated code, and says what came."""

import os
import sys

import grpc

CALL = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"

channel = grpc.insecure_channel(os.environ["SPIFFE_ENDPOINT_SOCKET"])
# Messages stay bytes: DiscoveryRequest.resource_names is field 3.
fetch = channel.unary_unary(CALL, request_serializer=None, response_deserializer=None)
for name in sys.argv[1:]:
    request = b"\x1a" + bytes([len(name)]) + name.encode()
    try:
        response = fetch(request, timeout=20, wait_for_ready=True)
        has = [word for word in ("CERTIFICATE", "PRIVATE KEY") if f"BEGIN {word}".encode() in response]
        print("secret", name, ", ".join(has))
    except grpc.RpcError as error:
        print("refused", name, error.code().name)
