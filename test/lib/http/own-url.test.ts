import assert from "node:assert/strict";
import { test } from "node:test";
import { isOwnUrlLocal, ownUrl } from "../../../lib/http/own-url.ts";

const at = (host: string, isTls = false): string => ownUrl({ given: undefined, host, port: 8080, isTls });

test("without a word of the operator, the URL is scheme, host and port", () => {
  assert.equal(at("127.0.0.1"), "http://127.0.0.1:8080");
  assert.equal(at("agent.example.org", true), "https://agent.example.org:8080");
  assert.equal(at("::1"), "http://[::1]:8080");
});

test("an address that means all of them is one that can be called, though by this machine alone", () => {
  assert.equal(at("0.0.0.0"), "http://127.0.0.1:8080");
  assert.equal(at("::", true), "https://[::1]:8080");
  assert.ok(isOwnUrlLocal({ given: undefined, host: "0.0.0.0" }));
  assert.ok(!isOwnUrlLocal({ given: "http://vu-0.vu-instances.vu.svc:8080", host: "0.0.0.0" }));
  assert.ok(!isOwnUrlLocal({ given: undefined, host: "127.0.0.1" }));
});

test("the operator's URL counts, unless it cannot be right", () => {
  const given = "https://vu-0.vu-instances.vu.svc:8080";
  assert.equal(ownUrl({ given, host: "0.0.0.0", port: 1, isTls: true }), given);
  // Something before the program may do TLS for it.
  assert.equal(ownUrl({ given, host: "0.0.0.0", port: 1, isTls: false }), given);
  for (const [wrong, isTls] of [
    ["http://vu-0.example.org:8080", true],
    ["vu-0.example.org:8080", false],
    ["ftp://vu-0.example.org", false],
  ] as const) {
    assert.throws(() => ownUrl({ given: wrong, host: "0.0.0.0", port: 1, isTls }), {
      code: "configuration_invalid",
      message: /DYNAMOS_INSTANCE_URL/,
    });
  }
});
