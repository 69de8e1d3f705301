import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { fingerprintOf } from "../../../lib/fingerprint.ts";
import { requestIdOf } from "../../../lib/http/idempotency.ts";

test("a key that is a UUID is the id; any other becomes one, always the same; a wrong one is refused", () => {
  const uuid = randomUUID();
  assert.deepEqual(requestIdOf(uuid.toUpperCase()), { requestId: uuid, isRepeatable: true });
  assert.match(
    requestIdOf("my key".replace(" ", "-")).requestId,
    /^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/,
  );
  assert.deepEqual(requestIdOf("k"), requestIdOf("k"));
  assert.notEqual(requestIdOf("k").requestId, requestIdOf("l").requestId);
  assert.equal(requestIdOf(undefined).isRepeatable, false);
  for (const wrong of ["", "two words", "x".repeat(129)])
    assert.throws(() => requestIdOf(wrong), { code: "bad_request" });
});

test("equal bodies have one fingerprint, whatever the order of their members", () => {
  const body = { query: "SELECT 1", options: { graph: true, anonymize: false }, columns: { a: "x", b: ["y", "z"] } };
  const turned = { columns: { b: ["y", "z"], a: "x" }, options: { anonymize: false, graph: true }, query: "SELECT 1" };
  assert.equal(fingerprintOf("job", body), fingerprintOf("job", turned));
  for (const other of [
    { ...body, query: "SELECT 2" },
    { ...body, columns: { a: "x", b: ["z", "y"] } },
    { ...body, options: { graph: true } },
  ]) {
    assert.notEqual(fingerprintOf("job", body), fingerprintOf("job", other));
  }
});
