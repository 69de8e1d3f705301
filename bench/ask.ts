/** A data request as a measurement makes it: by plain HTTP, with the times and bytes of its answer, and without any limit on time. */
import assert from "node:assert/strict";
import { Agent, request as httpRequest } from "node:http";
import type { Approval } from "../cli/client.ts";

/** What became of one request. */
export interface Asked {
  /** Until the answer's head, which goes out with the first batch. */
  readonly firstMs: number;
  /** Until its last byte. */
  readonly totalMs: number;
  /** Of the body, as they came over the wire. */
  readonly bytes: number;
  readonly encoding: string;
  /** Empty unless it was asked for. */
  readonly body: Buffer;
}

/** How to ask. */
export interface AskOptions {
  readonly token?: string;
  readonly accept?: string;
  /** For `Accept-Encoding`; default: none. */
  readonly encoding?: string;
  /** Whether the body is wanted; otherwise it is counted and let go. */
  readonly keep?: boolean;
  readonly headers?: Readonly<Record<string, string>>;
}

const connections = new Agent({ keepAlive: true, maxSockets: 256 });

/** Asks; anything but 200 fails with what the answer said. */
export async function ask(url: string, question: unknown, options: AskOptions = {}): Promise<Asked> {
  const start = performance.now();
  const body = Buffer.from(JSON.stringify(question));
  const headers = {
    "content-type": "application/json",
    "content-length": String(body.length),
    accept: options.accept ?? "application/json",
    ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
    ...(options.encoding === undefined ? {} : { "accept-encoding": options.encoding }),
    ...options.headers,
  };
  return new Promise((resolve, reject) => {
    const call = httpRequest(url, { method: "POST", headers, agent: connections }, (response) => {
      const firstMs = performance.now() - start;
      const isWanted = options.keep === true || response.statusCode !== 200;
      const pieces: Buffer[] = [];
      let bytes = 0;
      response.on("data", (piece: Buffer) => {
        bytes += piece.length;
        if (isWanted) pieces.push(piece);
      });
      response.on("error", reject);
      response.on("end", () => {
        const text = Buffer.concat(pieces);
        if (response.statusCode !== 200) {
          reject(new Error(`${String(response.statusCode)}: ${text.toString().slice(0, 1000)}`));
          return;
        }
        const encoding = response.headers["content-encoding"] ?? "identity";
        resolve({ firstMs, totalMs: performance.now() - start, bytes, encoding, body: text });
      });
    });
    call.on("error", reject);
    call.end(body);
  });
}

/** Opens a connection for the next request where none is open, and resolves with the milliseconds of a call by it that does nothing. */
export async function knock(url: string): Promise<number> {
  const { origin } = new URL(url);
  const once = (): Promise<number> =>
    new Promise((resolve, reject) => {
      const start = performance.now();
      const call = httpRequest(`${origin}/health`, { agent: connections }, (response) => {
        response.resume().on("error", reject);
        response.on("end", () => resolve(performance.now() - start));
      });
      call.on("error", reject).end();
    });
  await once();
  return once();
}

/** Asks the party of an approval that answers. */
export function askParty(
  approval: Approval,
  party: string,
  question: unknown,
  options: AskOptions = {},
): Promise<Asked> {
  const url = approval.authorizedProviders[party];
  assert.ok(url !== undefined, `${party} is not among ${Object.keys(approval.authorizedProviders).join(", ")}`);
  return ask(url, question, { ...options, token: approval.auth.accessToken });
}
