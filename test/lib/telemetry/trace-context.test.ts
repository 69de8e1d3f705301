import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTraceContext } from "../../../lib/telemetry/trace-context.ts";

const IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

test("a trace context of version 00 is exactly as long as it is, and one of a later version may say more", () => {
  for (const right of [`00-${IDS}-01`, `00-${IDS}-00`, `01-${IDS}-01`, `cc-${IDS}-01-what-the-future-adds`]) {
    assert.deepEqual(parseTraceContext({ traceparent: right }), { traceparent: right });
  }
  const wrong = [
    `00-${IDS}-01-more`,
    `00-${IDS}-011`,
    `00-${IDS}-01.`,
    `cc-${IDS}-01.what-the-future-adds`,
    `cc-${IDS}-011`,
    `ff-${IDS}-01`,
    `00-${"0".repeat(32)}-b7ad6b7169203331-01`,
    `00-0af7651916cd43dd8448eb211c80319c-${"0".repeat(16)}-01`,
    `00-${IDS.toUpperCase()}-01`,
    "",
  ];
  for (const traceparent of wrong) assert.equal(parseTraceContext({ traceparent }), undefined, traceparent);
});
