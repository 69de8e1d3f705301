import assert from "node:assert/strict";
import { test } from "node:test";
import { Type } from "@sinclair/typebox";
import fc from "fast-check";
import { decodeJson, encodeJson } from "../../../lib/bus/json.ts";
import { AppError } from "../../../lib/errors.ts";
import { withCode } from "../../support/bus.ts";

const credit = Type.Object({ run: Type.String(), chunks: Type.Integer({ minimum: 1 }) });

test("any JSON value comes back as it went in", () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const sent: unknown = JSON.parse(JSON.stringify(value));
      assert.deepEqual(decodeJson({ type: "credit", body: encodeJson(sent) }), sent);
    }),
  );
});

test("a body that fits its schema comes back typed", () => {
  const decoded = decodeJson({ type: "credit", body: encodeJson({ run: "jane-0a1b2c3d", chunks: 4 }) }, credit);
  assert.equal(decoded.chunks + 1, 5);
});

test("a body that does not fit names the place, but not the value", () => {
  const body = encodeJson({ run: "jane-0a1b2c3d", chunks: "secret" });
  assert.throws(
    () => decodeJson({ type: "credit", body }, credit),
    (error) => {
      assert.ok(error instanceof AppError);
      assert.equal(error.place?.pointer, "/chunks");
      assert.doesNotMatch(error.message, /secret/);
      return withCode("bad_request")(error);
    },
  );
});

test("bodies that are not JSON or not UTF-8, and values without JSON form, are refused", () => {
  for (const body of [Buffer.from("{"), Buffer.from(""), Buffer.from([0x22, 0xff, 0x22])]) {
    assert.throws(() => decodeJson({ type: "credit", body }), withCode("bad_request"));
  }
  assert.throws(() => encodeJson(undefined), withCode("invalid_argument"));
});
