/** `fetch` that trusts the authorities it is told to: the platform's own takes none in Node 20. */
import { Readable } from "node:stream";
import type { Trust } from "../tls/trust.ts";
import { ACCEPTED_ENCODINGS, decodedBody } from "./content-encoding.ts";
import { callService, type OutgoingCall } from "./outgoing.ts";

/** What is fetched. */
export interface FetchOptions {
  /** Default GET. */
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** JSON; absent: no body. */
  readonly body?: unknown;
  /** Ends the call, also while its answer is read; absent: it takes as long as it takes. */
  readonly signal?: AbortSignal;
  readonly trust: Trust;
}

/** Statuses whose responses have no body (the Fetch standard, "null body status"). */
const BODILESS = new Set([204, 205, 304]);

/**
 * As the platform's `fetch`, but that redirections of `https` URLs are not followed. Fails as that one does, and where a
 * certificate does not count here with an `unavailable` that says what helps.
 */
export async function fetchTrusted(
  url: string,
  { method = "GET", headers = {}, body, signal, trust }: FetchOptions,
): Promise<Response> {
  const place = new URL(url);
  if (place.protocol !== "https:") {
    const content = body === undefined ? {} : { "content-type": "application/json" };
    const text = body === undefined ? {} : { body: JSON.stringify(body) };
    const ending = signal === undefined ? {} : { signal };
    return fetch(url, { method, headers: { ...headers, ...content }, ...ending, ...text });
  }
  const answer = await callService(place, {
    method: method as OutgoingCall["method"],
    headers: { "accept-encoding": ACCEPTED_ENCODINGS, ...headers },
    ...(body === undefined ? {} : { body }),
    signal: signal ?? new AbortController().signal,
    trust,
  });
  const status = answer.statusCode ?? 502;
  const pairs = Object.entries(answer.headersDistinct).flatMap(([name, values = []]) =>
    values.map((value): [string, string] => [name, value]),
  );
  if (BODILESS.has(status)) answer.resume();
  return new Response(
    BODILESS.has(status) ? null : (Readable.toWeb(decodedBody(answer)) as ReadableStream<Uint8Array>),
    {
      status,
      headers: pairs,
    },
  );
}
