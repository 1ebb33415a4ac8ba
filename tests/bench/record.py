#!/usr/bin/env python3
"""record.py URL OUT: fills a real agent with a service of many instances and keeps what it answers.

The agent looks after its copy of them by itself, so the answer is asked for until it is complete.
"""
import json
import sys
import time
import urllib.request

NUM = 200
PATIENCE_S = 30


def registration(i):
    sid = "web-%03d" % i
    return {
        "ID": sid, "Name": "web", "Address": "10.20.%d.%d" % (i // 250, i % 250 + 1),
        "Port": 20000 + i, "Tags": ["v1.14.%d" % (i % 3), "eu-central-1" + "abc"[i % 3]],
        "Meta": {"commit": "%010x" % (i * 2654435761 % 2**40), "team": "storefront"},
        "Weights": {"Passing": 10, "Warning": 1},
        "Checks": [{"CheckID": "ttl:" + sid, "Name": "beats", "TTL": "600s",
                    "Status": "warning" if i % 20 == 7 else "passing",
                    "Notes": "at least every <600 s> & \"on time\""}],
    }


def put(url, value):
    request = urllib.request.Request(url, json.dumps(value).encode(), method="PUT")
    urllib.request.urlopen(request, timeout=PATIENCE_S).read()


def main():
    url, out = sys.argv[1:3]
    for i in range(NUM):
        put(url + "/v1/agent/service/register", registration(i))
    until = time.monotonic() + PATIENCE_S
    while True:
        with urllib.request.urlopen(url + "/v1/health/service/web", timeout=PATIENCE_S) as answer:
            body = answer.read()
        if sum(len(e["Checks"]) == 2 for e in json.loads(body)) == NUM:
            break
        if time.monotonic() > until:
            sys.exit("record: the agent does not list all instances")
        time.sleep(0.2)
    with open(out, "wb") as f:
        f.write(body)


if __name__ == "__main__":
    main()
