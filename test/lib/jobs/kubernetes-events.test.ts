import assert from "node:assert/strict";
import { test } from "node:test";
import type { Cause } from "../../../lib/jobs/kubernetes-ending.ts";
import { endingEvent } from "../../../lib/jobs/kubernetes-events.ts";
import { jobObject } from "../../support/kubernetes-observations.ts";

function eventOf(cause: Cause): { type: string; reason: string; message: string; metadata: { name: string } } {
  return endingEvent(jobObject(), "vu", cause, 0) as ReturnType<typeof eventOf>;
}

test("an Event names container, code and the command that shows the log", () => {
  const event = eventOf({ kind: "exited", container: "sql-query", exitCode: 137 });
  assert.deepEqual([event.type, event.reason], ["Warning", "ChainFailed"]);
  assert.match(event.message, /sql-query ended with exit code 137 \(SIGKILL\).*\(job_failed\)/);
  assert.match(event.message, /kubectl logs -n vu job\/run-1 -c sql-query$/);
  assert.match(event.metadata.name, /^run-1\.[0-9a-f]{8}$/);
});

test("what never ran has no log to look at, and Kubernetes' limit on messages holds", () => {
  const message = "x".repeat(5_000);
  const event = eventOf({ kind: "startFailed", container: "a", reason: "ErrImagePull", message, retryable: true });
  assert.equal(event.reason, "ChainNotStarted");
  assert.ok(event.message.length <= 1_024 && !event.message.includes("kubectl"));
});

test("a chain that somebody stopped is no warning", () => {
  assert.equal(eventOf({ kind: "stopped" }).type, "Normal");
});
