import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import {
  AppError,
  fromFailure,
  isUnexpected,
  stackFrames,
  toAppError,
  toFailure,
  toProblem,
} from "../../lib/errors.ts";
import { fromGrpcStatus, toGrpcStatus } from "../../lib/rpc/status.ts";
import { fromFailureMessage, toFailureMessage } from "../../lib/rpc/frames.ts";

/** Errors of others that quote what no other party may see. */
async function foreignErrors(): Promise<unknown[]> {
  const parse: unknown = await Promise.resolve('{"name":kanarie}')
    .then(JSON.parse)
    .catch((error: unknown) => error);
  const missing: unknown = await readFile("/no/such/kanarie.key").catch((error: unknown) => error);
  const errors: unknown[] = [parse, missing, new Error("kanarie"), "kanarie"];
  for (const error of errors) assert.match(String(error), /kanarie/);
  return errors;
}

test("what an error of others says goes over no hop, however many there are", async () => {
  for (const thrown of await foreignErrors()) {
    const once = fromFailure(toFailure(thrown)).withParty("VU");
    const twice = fromFailureMessage(toFailureMessage(fromGrpcStatus(grpcError(once), "The next element")));
    for (const error of [toAppError(thrown), once, twice]) {
      const told = [toFailure(error), toProblem(error), toGrpcStatus(error).details];
      assert.ok(!JSON.stringify(told).includes("kanarie"), JSON.stringify(told));
    }
    assert.equal(toProblem(twice).detail, "Unexpected error; see the log of VU.");
    assert.equal(toProblem(thrown).detail, "Unexpected error; see the log.");
  }
});

test("the process in which it came up keeps it for its log, with the party that is named later", async () => {
  for (const thrown of await foreignErrors()) {
    const error = toAppError(thrown).withParty("VU");
    assert.ok(isUnexpected(error));
    assert.equal(error.cause, thrown);
    assert.ok(!isUnexpected(fromFailure(toFailure(error))), "the next process has nothing to log");
  }
  assert.ok(isUnexpected(toAppError(undefined)));
});

test("what we say ourselves stays as it is", () => {
  const error = new AppError("data_invalid", "The header is missing.").withParty("VU");
  assert.equal(toFailure(error).detail, "The header is missing.");
  assert.ok(!isUnexpected(error));
});

test("the text of another program's gRPC error is for the log only", () => {
  const error = fromGrpcStatus({ code: 2, details: "Exception calling application: kanarie" }, "The next element");
  assert.equal(toProblem(error).detail, "The next element failed with gRPC status 2.");
  assert.ok(isUnexpected(error));
});

test("the frames of a stack do not have its message", () => {
  const error = new Error("kanarie\n    kanarie");
  assert.ok(!stackFrames(error).includes("kanarie"));
  assert.match(stackFrames(error), /^ {4}at /);
});

function grpcError(error: AppError): {
  code: number;
  details: string;
  metadata: ReturnType<typeof toGrpcStatus>["metadata"];
} {
  return toGrpcStatus(error);
}

test("what an error says of itself in a problem is not what somebody's details say", () => {
  const details = { status: 200, code: "not_ours", type: "about:blank", detail: "fine", retryable: true, limit: 5 };
  const problem = toProblem(new AppError("bad_request", "It is malformed.", { details, place: { pointer: "/a" } }));
  assert.deepEqual(problem, {
    type: "urn:dynamos:error:bad_request",
    title: "The request is malformed",
    status: 400,
    detail: "It is malformed.",
    code: "bad_request",
    retryable: false,
    pointer: "/a",
    limit: 5,
  });
});

test("a full disk has a code of its own, that may be repeated, and its words stay in this process", () => {
  for (const code of ["ENOSPC", "EDQUOT", "SQLITE_FULL"]) {
    const error = toAppError(Object.assign(new Error("no space left on device, write '/data/secret'"), { code }));
    assert.deepEqual(
      [error.code, error.status, error.retryable, isUnexpected(error)],
      ["storage_full", 507, true, true],
    );
    assert.equal(JSON.stringify(toProblem(error)).includes("secret"), false);
  }
});
