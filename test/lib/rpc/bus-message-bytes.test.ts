/** Bus messages by hand are what protobuf-es makes of them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { consumeResponseBytes, publishRequestBytes } from "../../../lib/rpc/bus-message-bytes.ts";
import {
  ConsumeResponseSchema,
  PublishRequestSchema,
  type BusMessageSchema,
} from "../../../lib/rpc/gen/dynamos/v1/messaging_pb.ts";

/** Any name but the one that protobuf-es' maps, which are plain objects, can't hold. */
const headerName = fc.string({ minLength: 1 }).filter((name) => name !== "__proto__");
const message = fc.record(
  {
    type: fc.string(),
    body: fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.constant(new Uint8Array(70_000).fill(7))),
    correlationId: fc.string(),
    messageId: fc.string(),
    headers: fc.dictionary(headerName, fc.string()),
    expiresAtMs: fc.bigInt(-5n, 2n ** 50n),
    redeliveryCount: fc.nat(),
  },
  { requiredKeys: [] },
) as fc.Arbitrary<MessageInitShape<typeof BusMessageSchema>>;
const number = fc.bigInt(0n, 2n ** 63n);

/** Fields may stand in another order by hand; protobuf-es writes what it has read in its own. */
function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}

test("publish requests", () => {
  fc.assert(
    fc.property(number, fc.string(), fc.option(message), (each, queue, body) => {
      const request = create(PublishRequestSchema, {
        number: each,
        queue,
        ...(body === null ? {} : { message: body }),
      });
      const decoded = fromBinary(PublishRequestSchema, publishRequestBytes(request));
      assert.ok(isSame(toBinary(PublishRequestSchema, decoded), toBinary(PublishRequestSchema, request)));
    }),
  );
});

test("deliveries, and the other answers to a consumer", () => {
  fc.assert(
    fc.property(number, fc.option(message), (each, body) => {
      const delivery = { number: each, ...(body === null ? {} : { message: body }) };
      for (const init of [{ case: "delivery", value: delivery } as const, { case: "started", value: {} } as const]) {
        const response = create(ConsumeResponseSchema, { body: init });
        const decoded = fromBinary(ConsumeResponseSchema, consumeResponseBytes(response));
        assert.ok(isSame(toBinary(ConsumeResponseSchema, decoded), toBinary(ConsumeResponseSchema, response)));
      }
    }),
  );
});
