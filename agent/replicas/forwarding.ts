/**
 * A data request that another instance of this party's agent runs is passed on to it, and its answer streamed through under
 * back-pressure. The owner never passes it on again: it answers, or says that the request is not with it.
 */
import type { IncomingMessage } from "node:http";
import type { Clock } from "../../lib/clock.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import { callService, isUnreachable } from "../../lib/http/outgoing.ts";
import { NOT_HERE_HEADER } from "../../lib/http/request-headers.ts";
import { traceHeaders, type TraceContext } from "../../lib/telemetry/trace-context.ts";
import type { Trust } from "../../lib/tls/trust.ts";
import type { RequestClaim } from "../../lib/messages.ts";
import type { Siblings } from "./siblings.ts";

/** Says who passed a request on; its receiver never does. */
export const FORWARDED_HEADER = "x-dynamos-forwarded";
/** Says which instance is meant: another one may be at its address by now. */
export const OWNER_HEADER = "x-dynamos-owner";

/** An owner whose lease has ended and that says nothing may be late by this: before its head, and in the middle of its answer. */
const LATE_HEAD_MS = 1_000;
const SILENT_MS = 5_000;
/** What of the owner's head is the caller's too. */
const PASSED_HEADERS = [
  "content-type",
  "content-encoding",
  "vary",
  "x-dynamos-request",
  "retry-after",
  "www-authenticate",
] as const;

/** What is passed on. */
export interface ForwardedRequest {
  readonly method: "POST" | "DELETE";
  /** Path of the URL. */
  readonly path: string;
  /** Of the caller: `authorization`, `accept`, `idempotency-key`. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly trace: TraceContext;
}

/** The owner's answer. */
export interface ForwardedAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: IncomingMessage;
}

/** Who forwards. */
export interface Forwarder {
  readonly instance: string;
  readonly siblings: Siblings;
  readonly clock: Pick<Clock, "sleep">;
  /** Whose certificates count. */
  readonly trust: Trust;
}

/**
 * The owner's answer, once its head is there; undefined where the owner cannot be reached, is dead, stopping or no owner any
 * more: then nobody has seen anything of an answer, and it may be taken over. An owner that dies later breaks the body off.
 *
 * @param signal the caller's; ends the owner's work for it, too.
 * @throws AppError the signal's reason.
 */
export async function forward(
  { instance, siblings, clock, trust }: Forwarder,
  owner: RequestClaim,
  request: ForwardedRequest,
  signal: AbortSignal,
): Promise<ForwardedAnswer | undefined> {
  const gone = siblings.goneSignal(owner.instance);
  const late = new AbortController();
  const answered = new AbortController();
  const waitForHead = async (): Promise<void> => {
    await aborted(gone, answered.signal);
    await clock.sleep(LATE_HEAD_MS, answered.signal);
    late.abort(gone.reason);
  };
  waitForHead().catch(() => undefined); // The head came, or the caller left.
  try {
    const body = await callService(new URL(request.path, owner.instanceUrl), {
      method: request.method,
      headers: {
        ...request.headers,
        ...traceHeaders(request.trace),
        [FORWARDED_HEADER]: instance,
        [OWNER_HEADER]: owner.instance,
      },
      ...(request.body === undefined ? {} : { body: request.body }),
      signal: AbortSignal.any([signal, late.signal]),
      trust,
    });
    answered.abort();
    if (body.headers[NOT_HERE_HEADER] !== undefined) {
      body.destroy();
      return undefined;
    }
    breakOffWhenSilent(body, gone, clock);
    return { status: body.statusCode ?? 502, headers: passedHeaders(body), body };
  } catch (error) {
    if (signal.aborted) throw toAppError(signal.reason);
    if (late.signal.aborted || isUnreachable(error)) return undefined;
    if (error instanceof AppError) throw error;
    throw new AppError("unavailable", `Instance ${owner.instance} of the agent could not be asked.`, { cause: error });
  } finally {
    answered.abort();
  }
}

/** An owner that is gone and frozen keeps its connections open: its answer ends when nothing comes any more, though we read. */
function breakOffWhenSilent(body: IncomingMessage, gone: AbortSignal, clock: Pick<Clock, "sleep">): void {
  const closed = new AbortController();
  body.once("close", () => closed.abort());
  const watch = async (): Promise<void> => {
    await aborted(gone, closed.signal);
    for (let seen = -1; seen !== body.socket.bytesRead || body.readableLength > 0;) {
      seen = body.socket.bytesRead;
      await clock.sleep(SILENT_MS, closed.signal);
    }
    body.destroy(new AppError("unavailable", "The instance of the agent that answered is gone."));
  };
  watch().catch(() => undefined); // It ended before.
}

/** Resolves when a signal is aborted; rejects when the other one is. */
function aborted(signal: AbortSignal, unless: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return resolve();
    const onUnless = (): void => {
      signal.removeEventListener("abort", onAbort);
      reject(toAppError(unless.reason));
    };
    const onAbort = (): void => {
      unless.removeEventListener("abort", onUnless);
      resolve();
    };
    signal.addEventListener("abort", onAbort, { once: true });
    unless.addEventListener("abort", onUnless, { once: true });
  });
}

function passedHeaders({ headers }: IncomingMessage): Record<string, string> {
  return Object.fromEntries(
    PASSED_HEADERS.flatMap((name) => {
      const value = headers[name];
      return typeof value === "string" ? [[name, value] as const] : [];
    }),
  );
}
