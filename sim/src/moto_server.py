"""moto's S3 on a free port, with two things that a cloud has and moto does not.

Usage: moto_server.py s3|gs

A conditional PUT is one step: of two that race, one is refused. And as `gs` it answers to the XML API of Google Cloud Storage as far as it is that of
S3 under other names: `x-goog-if-generation-match: 0` for an object that must not exist, a bearer token instead of a signature, `x-goog-generation` in
answers. What has no counterpart is refused, not ignored.
"""

import io
import itertools
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

# moto does not check signatures, it wants one to be there.
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none"
KNOWN = {"HTTP_X_GOOG_IF_GENERATION_MATCH", "HTTP_X_GOOG_API_CLIENT"}


class Cloud:
    def __init__(self, protocol):
        self.protocol = protocol
        self.moto = create_backend_app("s3") if protocol == "gs" else DomainDispatcherApplication(create_backend_app)
        self.creating = threading.Lock()
        self.generations = itertools.count(1)

    def __call__(self, environ, start_response):
        if self.protocol == "gs":
            unknown = [name for name in environ if name.startswith("HTTP_X_GOOG_") and name not in KNOWN]
            generation = environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None)
            if unknown or generation not in (None, "0"):
                start_response("501 Not Implemented", [("Content-Type", "text/plain")])
                return [f"not here: {unknown} {generation}".encode()]
            environ["HTTP_AUTHORIZATION"] = SIGNED
            if generation == "0":
                environ["HTTP_IF_NONE_MATCH"] = "*"
            start_response = self.with_generation(start_response)
        if environ["REQUEST_METHOD"] != "PUT" or "HTTP_IF_NONE_MATCH" not in environ:
            return self.moto(environ, start_response)
        # Nobody who sends slowly holds up the others.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if len(body) != length:
            start_response("400 Bad Request", [("Content-Type", "text/plain")])
            return [b"the body ended early"]
        environ["wsgi.input"] = io.BytesIO(body)
        with self.creating:
            return list(self.moto(environ, start_response))

    def with_generation(self, start_response):
        def start(status, headers, *more):
            return start_response(status, [*headers, ("x-goog-generation", str(next(self.generations)))], *more)

        return start


run_simple("127.0.0.1", 0, Cloud(sys.argv[1]), threaded=True, request_handler=MotoRequestHandler)
