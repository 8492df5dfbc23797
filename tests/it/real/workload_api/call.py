"""Calls `serve.py` over mutual TLS, expecting one identity there."""

import sys

from spiffe import SpiffeId, X509Source
from spiffetls import ClientTlsMode, dial
from spiffetls.tlsconfig.authorize import authorize_id

address, server = sys.argv[1:]
source = X509Source(timeout_in_seconds=30)
try:
    connection = dial(address, source, ClientTlsMode.TLS, authorize_id(SpiffeId(server)))
    connection.sendall(b"storefront")
    print("answered", connection.recv(100).decode())
except Exception as error:
    # With TLS 1.3 a client that was refused learns of it when it first reads.
    print("refused", type(error).__name__, error)
