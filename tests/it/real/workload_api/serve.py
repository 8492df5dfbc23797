"""Answers mutual TLS connections of one identity with a greeting."""

import sys

from OpenSSL import SSL
from spiffe import SpiffeId, X509Source
from spiffetls import ListenOptions, ServerTlsMode, listen
from spiffetls.tlsconfig.authorize import authorize_id

address, caller = sys.argv[1:]
source = X509Source(timeout_in_seconds=30)
options = ListenOptions(tls_mode=ServerTlsMode.MTLS, authorize_fn=authorize_id(SpiffeId(caller)))
listener = listen(address, source, options)
print("listening")
while True:
    connection, _ = listener.accept()
    try:
        connection.do_handshake()
        said = connection.recv(100)
        uris = connection.get_peer_certificate().to_cryptography()
        print("peer", caller, uris.serial_number)
        connection.sendall(b"hello " + said)
        connection.shutdown()
    except SSL.Error as error:
        print("refused", error)
    connection.close()
