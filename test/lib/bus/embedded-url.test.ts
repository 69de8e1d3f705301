import assert from "node:assert/strict";
import { test } from "node:test";
import { embeddedBusUrl, parseEmbeddedBusUrl } from "../../../lib/bus/embedded-url.ts";

test("the URL of an embedded bus names its file, and perhaps how large that may be", () => {
  for (const [url, place] of [
    ["embedded:/var/bus.db", { path: "/var/bus.db" }],
    ["embedded:bus.db?maxBytes=1073741824", { path: "bus.db", maxBytes: 1_073_741_824 }],
    ["embedded:what?is?this.db", { path: "what?is?this.db" }],
    ["embedded:a?maxBytes=x/b?maxBytes=2000000", { path: "a?maxBytes=x/b", maxBytes: 2_000_000 }],
  ] as const) {
    assert.deepEqual(parseEmbeddedBusUrl(url), place);
    assert.equal(embeddedBusUrl(place), url);
  }
  assert.equal(parseEmbeddedBusUrl("amqp://localhost"), undefined);
});

test("a URL without a file, or with a limit that is none, says what to write instead", () => {
  assert.throws(() => parseEmbeddedBusUrl("embedded:"), { code: "configuration_invalid", message: /names no file/ });
  for (const limit of ["", "1e9", "-1", "4096", "1000000000000000000"]) {
    assert.throws(() => parseEmbeddedBusUrl(`embedded:bus.db?maxBytes=${limit}`), {
      code: "configuration_invalid",
      message: /number of bytes from 1048576 on/,
    });
  }
});
