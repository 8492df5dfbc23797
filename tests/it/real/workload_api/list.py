"""Prints every identity it is given once there are as many as expected."""

import sys
import time

from spiffe import WorkloadApiClient

expected = int(sys.argv[1])
client = WorkloadApiClient()
for _ in range(200):
    try:
        svids = client.fetch_x509_svids()
    except Exception as error:
        print("not yet", error)
        svids = []
    if len(svids) >= expected:
        break
    time.sleep(0.1)
for svid in svids:
    print("svid", svid.spiffe_id)
print("total", len(svids))
