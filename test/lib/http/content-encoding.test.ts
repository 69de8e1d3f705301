/** Answers by Accept-Encoding, over real sockets. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import {
  ACCEPTED_ENCODINGS,
  chooseEncoding,
  decodedBody,
  encodedBody,
  encodingHeaders,
} from "../../../lib/http/content-encoding.ts";
import { callService } from "../../../lib/http/outgoing.ts";
import { NODE_TRUST } from "../../../lib/tls/trust.ts";
import { eventually } from "../../support/eventually.ts";

const PIECES = Array.from({ length: 10 }, (_, piece) =>
  Array.from({ length: 1000 }, (_, row) => `{"Unieknr":"0001","row":${1000 * piece + row}},\n`).join(""),
);

async function serve(t: TestContext, listener: RequestListener): Promise<URL> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
}

function ask(url: URL, accepted: string | undefined): Promise<IncomingMessage> {
  const headers = accepted === undefined ? {} : { "accept-encoding": accepted };
  return callService(url, { method: "GET", headers, signal: new AbortController().signal, trust: NODE_TRUST });
}

async function bytesOf(body: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of body) pieces.push(piece);
  return Buffer.concat(pieces);
}

test("the coding is the one that the caller wants most, of those that there are", () => {
  for (const [header, wanted] of [
    [undefined, "identity"],
    ["", "identity"],
    ["gzip, deflate", "gzip"],
    ["gzip, deflate, br", "br"],
    ["br;q=0.5, gzip;q=0.8", "gzip"],
    ["GZIP", "gzip"],
    ["deflate", "identity"],
    ["br;q=0, gzip", "gzip"],
    ["*", "br"],
    ["*, br;q=0", "gzip"],
    ["identity, gzip;q=0.5", "identity"],
    ["gzip;q=0, *;q=0", "identity"],
  ] as const) {
    assert.equal(chooseEncoding(header), wanted, header);
  }
});

test("a body comes out as it went in, in every coding, and smaller", async (t) => {
  const url = await serve(t, (request, response) => {
    const encoding = chooseEncoding(request.headers["accept-encoding"]);
    response.writeHead(200, encodingHeaders(encoding));
    encodedBody(Readable.from(PIECES, { objectMode: false }), encoding).pipe(response);
  });
  const whole = PIECES.join("");
  const unpack = { br: brotliDecompressSync, gzip: gunzipSync };
  for (const coding of ["br", "gzip"] as const) {
    const answer = await ask(url, coding);
    assert.equal(answer.headers["content-encoding"], coding);
    assert.equal(answer.headers.vary, "accept-encoding");
    const packed = await bytesOf(answer);
    assert.ok(packed.length < whole.length / 4, `${packed.length} bytes of ${whole.length}`);
    assert.equal(unpack[coding](packed).toString(), whole);
    assert.equal((await bytesOf(decodedBody(await ask(url, coding)))).toString(), whole);
  }
  const plain = await ask(url, undefined);
  assert.equal(plain.headers["content-encoding"], undefined);
  assert.equal((await bytesOf(decodedBody(plain))).toString(), whole);
});

test("what a slow answer has written is readable before it ends", async (t) => {
  const url = await serve(t, (request, response) => {
    const encoding = chooseEncoding(request.headers["accept-encoding"]);
    response.writeHead(200, encodingHeaders(encoding));
    const slow = new Readable({ read: () => undefined });
    slow.push("the first rows");
    encodedBody(slow, encoding).pipe(response);
  });
  for (const coding of ["br", "gzip"]) {
    for await (const piece of decodedBody(await ask(url, coding)) as AsyncIterable<Buffer>) {
      assert.equal(piece.toString(), "the first rows");
      break;
    }
  }
});

test("an answer that breaks off fails its reader, and a reader that leaves closes the answer's source", async (t) => {
  let isClosed = false;
  const url = await serve(t, (request, response) => {
    const encoding = chooseEncoding(ACCEPTED_ENCODINGS);
    response.writeHead(200, encodingHeaders(encoding));
    response.flushHeaders();
    const isBroken = request.url === "/broken";
    const source = async function* (): AsyncGenerator<Buffer> {
      try {
        for (let row = 0; !isBroken || row < 10; row++) yield Buffer.from(`${row} of many rows\n`);
      } finally {
        isClosed = true;
      }
      throw new Error("the chain died");
    };
    const body = encodedBody(Readable.from(source(), { objectMode: false }), encoding);
    body.on("error", () => response.destroy());
    response.on("close", () => body.destroy());
    body.pipe(response);
  });
  const broken = await ask(new URL("/broken", url), ACCEPTED_ENCODINGS);
  await assert.rejects(bytesOf(decodedBody(broken)));
  isClosed = false;
  const body = decodedBody(await ask(url, ACCEPTED_ENCODINGS));
  for await (const piece of body as AsyncIterable<Buffer>) {
    assert.ok(piece.length > 0);
    break;
  }
  await eventually(() => isClosed);
});
