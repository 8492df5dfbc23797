"""Prints the identity, its serial and the number of roots, at once and at each change."""

import sys

from spiffe import X509Source


def show():
    context = source.get_x509_context()
    svid = context.default_svid
    roots = sum(len(bundle.x509_authorities) for bundle in context.x509_bundle_set.bundles)
    print("svid", svid.spiffe_id, format(svid.leaf.serial_number, "x"), "roots", roots)


source = X509Source(timeout_in_seconds=30)
source.subscribe_for_updates(show)
show()
sys.stdin.read()
