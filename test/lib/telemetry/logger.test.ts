import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError, toAppError } from "../../../lib/errors.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";

function logged(error: unknown): string {
  let lines = "";
  createLogger("test", {}, "info", { write: (line) => void (lines += line) }).error({ error }, "failed");
  return lines;
}

const quoting = new Error("near kanarie: syntax error", { cause: new AppError("internal", "kanarie") });

for (const code of ["query_invalid", "bad_request"] as const) {
  test(`of ${code} neither the message nor those of its causes are logged, nor their stacks`, () => {
    const line = logged(new AppError(code, "The query cannot be run: near kanarie.", { cause: quoting }));
    assert.ok(!line.includes("kanarie"), line);
    assert.match(line, new RegExp(code));
    assert.match(line, /logger\.test/, "where it came up is logged");
    assert.ok(!logged(new AppError(code, "Malformed.", { cause: "kanarie" })).includes("kanarie"));
  });

  test(`a ${code} that caused another error is hidden, too`, () => {
    const line = logged(new AppError("job_failed", "It stopped.", { cause: new AppError(code, "kanarie") }));
    assert.ok(!line.includes("kanarie"), line);
    assert.match(line, /It stopped/);
  });
}

test("a JSON parser's message, which quotes its input, is not logged", async () => {
  const thrown: unknown = await Promise.resolve("[kanarie")
    .then(JSON.parse)
    .catch((error: unknown) => error);
  assert.match(String(thrown), /kanarie/);
  assert.ok(!logged(toAppError(thrown)).includes("kanarie"));
});

test("other errors are logged with message, cause and stack", () => {
  const line = logged(toAppError(new Error("no such thing")));
  assert.match(line, /no such thing/);
  assert.match(line, /logger\.test/);
});
