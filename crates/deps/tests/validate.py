"""Validates the file named by the second argument with a validator that is not ours; exits 1 with the reason."""
import json
import sys

kind, path = sys.argv[1:]
text = open(path, encoding="utf-8").read()

if kind == "cyclonedx":
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
    if problem is not None:
        sys.exit(str(problem)[:2000])
elif kind == "spdx":
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    problems = validate_full_spdx_document(parse_file(path), "SPDX-2.3")
    if problems:
        sys.exit("; ".join(problem.validation_message for problem in problems[:5]))
elif kind == "sarif":
    from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Log

    log = Log.model_validate(json.loads(text))
    assert log.runs[0].results, "no results"
elif kind == "junit":
    import xml.etree.ElementTree as tree

    root = tree.fromstring(text)
    cases = list(root.iter("testcase"))
    assert root.tag == "testsuites" and int(root.get("tests")) == len(cases)
    assert int(root.get("failures")) == len(list(root.iter("failure")))
elif kind == "html":
    import html.parser

    class Parser(html.parser.HTMLParser):
        open_tags = []

        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "img", "link"), tag
            if tag != "meta":
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag, tag

    parser = Parser()
    parser.feed(text)
    assert parser.open_tags == [], parser.open_tags
else:
    sys.exit(f"unknown kind {kind}")
