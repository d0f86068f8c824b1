"""Requests made from /openapi.json, good and bad: none may give a 5xx, break the connection, or get an answer that the document does not describe."""
import os
import pathlib
import subprocess
import sys

EXAMPLES = os.environ.get("NIBBLE_SCHEMATHESIS_EXAMPLES", "40")  # a route


def test_no_request_of_the_document_breaks_the_server(server, tmp_path):
    command = [str(pathlib.Path(sys.executable).parent / "schemathesis"), "run", server.url + "/openapi.json", "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
               "--max-examples", EXAMPLES, "--seed", "1", "--request-timeout", "60", "--generation-database", "none", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, cwd=tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "No issues found" in done.stdout or "passed" in done.stdout, done.stdout[-3000:]
    assert server.process.poll() is None
