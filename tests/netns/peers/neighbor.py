"""Somebody who asks two servers in turn and has nothing to do with the rest, until its input ends.

neighbor.py HOST PORT HOST PORT
"""

import http.client
import json
import select
import sys

PATIENCE = 30


def main():
    servers = [(sys.argv[1], int(sys.argv[2])), (sys.argv[3], int(sys.argv[4]))]
    connections = [http.client.HTTPConnection(host, port, timeout=PATIENCE) for host, port in servers]
    asked, failed = 0, []
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        for connection in connections:
            asked += 1
            try:
                connection.request("POST", "/echo", body=b"neighbor")
                answer = connection.getresponse()
                body = answer.read()
                if (answer.status, body) != (200, b"neighbor"):
                    failed.append(f"{answer.status} {body[:100]!r}")
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                connection.close()
    print(json.dumps({"asked": asked, "failed": failed}))


main()
